/**
 * Server-sent events over `fetch`: unlike `EventSource` it sees the status of a refusal, sends headers and leaves the
 * pace of reconnecting to us.
 */
export interface IServerEvent {
  event: string;
  data: string;
  id: string | null;
}

/** Incremental parser of `text/event-stream`; comments and unknown fields are ignored. */
export class EventParser {
  /** Returns the events completed by this piece of text. */
  push(text: string): IServerEvent[] {
    this._rest += text;
    const events: IServerEvent[] = [];
    for (;;) {
      const end = /\r\n|\n|\r(?!$)/.exec(this._rest);
      if (!end) {
        return events;
      }
      const line = this._rest.slice(0, end.index);
      this._rest = this._rest.slice(end.index + end[0].length);
      if (line === '') {
        if (this._data.length > 0) {
          events.push({ event: this._event || 'message', data: this._data.join('\n'), id: this._id });
        }
        this._event = '';
        this._data = [];
        continue;
      }
      const colon = line.indexOf(':');
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (field === 'event') {
        this._event = value;
      } else if (field === 'data') {
        this._data.push(value);
      } else if (field === 'id') {
        this._id = value;
      }
    }
  }

  private _rest = '';
  private _event = '';
  private _data: string[] = [];
  private _id: string | null = null;
}

/** The service sends at least a comment every 15 s; a connection that is silent for longer than this is dead. */
const SILENCE_MS = 40_000;

/** Milliseconds before attempt *n* (0, 1, 2 …): doubling from one second to fifteen, spread by ±20 %. */
export function backoff(attempt: number, random: () => number = Math.random): number {
  const base = Math.min(15_000, 1000 * 2 ** Math.min(attempt, 5));
  return Math.round(base * (0.8 + 0.4 * random()));
}

export type StreamState = 'connecting' | 'live' | 'waiting' | 'paused';

export interface IStreamOptions {
  /** Opens the stream; `lastEventId` resumes after what was seen. */
  open: (lastEventId: string | null, signal: AbortSignal) => Promise<Response>;
  onEvent: (event: IServerEvent) => void;
  onState?: (state: StreamState, error?: unknown) => void;
  silence?: number;
  random?: () => number;
}

/** Keeps one event stream open until it is disposed; `pause` closes it while nobody looks. */
export class EventStream {
  constructor(options: IStreamOptions) {
    this._options = options;
  }

  get state(): StreamState {
    return this._state;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  resume(): void {
    if (this._disposed || this._state === 'connecting' || this._state === 'live') {
      return;
    }
    clearTimeout(this._timer);
    this._attempt = 0;
    void this._connect();
  }

  pause(): void {
    clearTimeout(this._timer);
    this._abort?.abort();
    this._abort = null;
    if (!this._disposed) {
      this._setState('paused');
    }
  }

  dispose(): void {
    this.pause();
    this._disposed = true;
  }

  private async _connect(): Promise<void> {
    const abort = new AbortController();
    this._abort = abort;
    this._setState('connecting');
    let failure: unknown;
    try {
      const response = await this._options.open(this._lastEventId, abort.signal);
      if (!response.ok || !response.body) {
        throw new Error(`The event stream answered ${response.status}`);
      }
      await this._read(response.body, abort.signal);
    } catch (error) {
      failure = error;
    }
    if (abort.signal.aborted) {
      return;
    }
    this._setState('waiting', failure);
    this._timer = setTimeout(
      () => {
        void this._connect();
      },
      backoff(this._attempt++, this._options.random)
    );
  }

  private async _read(body: ReadableStream<Uint8Array>, signal: AbortSignal): Promise<void> {
    const reader = body.getReader();
    const hear = (): ReturnType<typeof setTimeout> =>
      setTimeout(() => {
        // Ends the read below as if the service had closed the stream.
        void reader.cancel();
      }, this._options.silence ?? SILENCE_MS);
    let silence = hear();
    const decoder = new TextDecoder();
    const parser = new EventParser();
    this._setState('live');
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        clearTimeout(silence);
        throw error;
      });
      clearTimeout(silence);
      if (done || signal.aborted) {
        return;
      }
      silence = hear();
      for (const event of parser.push(decoder.decode(value, { stream: true }))) {
        this._attempt = 0;
        this._lastEventId = event.id ?? this._lastEventId;
        this._options.onEvent(event);
      }
    }
  }

  private _setState(state: StreamState, error?: unknown): void {
    this._state = state;
    this._options.onState?.(state, error);
  }

  private _options: IStreamOptions;
  private _state: StreamState = 'paused';
  private _attempt = 0;
  private _disposed = false;
  private _lastEventId: string | null = null;
  private _abort: AbortController | null = null;
  private _timer: ReturnType<typeof setTimeout> | undefined;
}
