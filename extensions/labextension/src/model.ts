/** Keeps jobs, quotas and costs up to date: by events while they flow, else by polling. */
import { Poll } from '@lumino/polling';
import { Signal, type ISignal } from '@lumino/signaling';
import type { IDisposable } from '@lumino/disposable';
import { clockOffset } from './accrual';
import type { Client } from './client';
import { problemOf, type ServiceProblem } from './problem';
import { EventStream, type IServerEvent } from './stream';
import type { Connection, ISpending, ITesseraModel, Scope } from './tokens';
import {
  FINAL_PHASES,
  type ClusterCapacity,
  type ILocalStatus,
  type IUsage,
  type Me,
  type Queue,
  type Task
} from './types';

const PAGE = 200;
const LIVE_INTERVAL_MS = 60_000;
/** Longest wait between two attempts to reach a service that does not answer. */
const AWAY_INTERVAL_MS = 15_000;
const USAGE_INTERVAL_MS = 5000;
/** Ten minutes of them. */
const USAGE_SAMPLES = 120;

export class TesseraModel implements ITesseraModel, IDisposable {
  /** @param pollInterval Milliseconds between two polls while events do not flow. */
  constructor(
    readonly client: Client,
    private _pollInterval = 5000
  ) {
    this._poll = new Poll({
      name: '@tessera/lab:model',
      factory: () => this._fetch(),
      frequency: { interval: this._pollInterval, backoff: true, max: AWAY_INTERVAL_MS },
      standby: 'when-hidden'
    });
    this._stream = new EventStream({
      open: (id, signal) => this.client.openStream('events', id, signal),
      onEvent: event => {
        this._onEvent(event);
      },
      onState: state => {
        if (state === 'live') {
          this._setConnection('live');
          void this._poll.refresh();
        } else if (state === 'waiting' && this._connection === 'live') {
          this._setConnection('polling');
          void this._poll.refresh();
        }
        this._setPace();
      }
    });
    this._meter = new Poll({
      name: '@tessera/lab:usage',
      factory: () => this._measure(),
      frequency: { interval: USAGE_INTERVAL_MS, backoff: true, max: 60_000 },
      standby: 'when-hidden'
    });
    document.addEventListener('visibilitychange', this._onVisibility);
    window.addEventListener('offline', this._onNetwork);
    window.addEventListener('online', this._onNetwork);
    this._stream.resume();
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }
  get finished(): ISignal<this, Task> {
    return this._finished;
  }
  get version(): number {
    return this._version;
  }
  get connection(): Connection {
    return this._connection;
  }
  get since(): number {
    return this._since;
  }
  get error(): ServiceProblem | null {
    return this._error;
  }
  get me(): Me | null {
    return this._me;
  }
  get local(): ILocalStatus | null {
    return this._local;
  }
  get queues(): readonly Queue[] {
    return this._queues;
  }
  get clusters(): readonly ClusterCapacity[] {
    return this._clusters;
  }
  get spending(): ISpending | null {
    return this._spending;
  }
  get usage(): readonly IUsage[] {
    return this._usage;
  }
  get tasks(): readonly Task[] {
    return this._tasks;
  }
  get hasMore(): boolean {
    return this._cursor !== null;
  }
  get scope(): Scope {
    return this._scope;
  }
  set scope(scope: Scope) {
    if (scope !== this._scope) {
      this._scope = scope;
      // What was loaded is a part of another list.
      this._tasks = [];
      this._cursor = null;
      this._emit();
      void this._poll.refresh();
    }
  }

  get isDisposed(): boolean {
    return this._poll.isDisposed;
  }

  dispose(): void {
    document.removeEventListener('visibilitychange', this._onVisibility);
    window.removeEventListener('offline', this._onNetwork);
    window.removeEventListener('online', this._onNetwork);
    clearTimeout(this._sumsTimer);
    this._stream.dispose();
    this._poll.dispose();
    this._meter.dispose();
    Signal.clearData(this);
  }

  set pollInterval(milliseconds: number) {
    this._pollInterval = milliseconds;
    this._setPace();
  }

  now(): number {
    // What is not known to go on does not tick.
    return (this._connection === 'offline' ? this._since : Date.now()) + this._offset;
  }

  async refresh(): Promise<void> {
    this._stream.resume();
    await this._poll.refresh();
    await this._poll.tick;
  }

  async loadMore(): Promise<void> {
    if (this._cursor !== null) {
      const page = await this.client.tasks({ ...this._query(), cursor: this._cursor });
      this._cursor = page.next ?? null;
      this._merge(page.items);
      this._emit();
    }
  }

  accept(task: Task): void {
    const known = this._tasks.find(other => other.id === task.id);
    if (known && known.version > task.version) {
      return;
    }
    if (!known && this._scope === 'mine' && task.owner !== this._me?.name) {
      return;
    }
    if (known && !FINAL_PHASES.has(known.phase) && FINAL_PHASES.has(task.phase)) {
      this._finished.emit(task);
    }
    if (!known || known.phase !== task.phase) {
      this._refreshSumsSoon();
    }
    this._merge([task]);
    this._emit();
  }

  async stop(id: string): Promise<void> {
    this.accept(await this.client.cancel(id));
  }

  async retry(id: string): Promise<Task> {
    const task = await this.client.retry(id);
    this.accept(task);
    return task;
  }

  private async _fetch(): Promise<void> {
    try {
      const sentAt = Date.now();
      this._me = await this.client.me();
      this._offset = clockOffset(this._me.server_time, sentAt, Date.now());
      const [page, queues, clusters, local] = await Promise.all([
        this.client.tasks(this._query()),
        this.client.queues(),
        this.client.capacity(),
        this.client.localStatus(),
        this._fetchCosts()
      ]);
      this._queues = queues;
      this._clusters = clusters;
      this._local = local;
      this._replace(page.items, page.next ?? null);
      this._error = null;
      if (this._stream.state === 'waiting') {
        this._stream.resume();
      }
      this._setConnection(this._stream.state === 'live' ? 'live' : 'polling');
    } catch (error) {
      const problem = problemOf(error);
      this._error = problem;
      this._setConnection('offline');
      throw problem;
    } finally {
      this._emit();
    }
  }

  private async _measure(): Promise<void> {
    try {
      this._usage = [...this._usage.slice(1 - USAGE_SAMPLES), await this.client.usage()];
      this._emit();
    } catch (error) {
      const problem = problemOf(error);
      if (problem.refusesPerson) {
        // Long before the next poll of what the event stream keeps current.
        this._error = problem;
        this._setConnection('offline');
      }
      throw problem;
    }
  }

  private async _fetchCosts(): Promise<void> {
    const today = new Date();
    today.setHours(0, 0, 0, 0);
    const month = new Date(today);
    month.setDate(1);
    try {
      const [day, whole] = await Promise.all([this.client.spent(today), this.client.spent(month)]);
      this._spending = { today: day, month: whole };
    } catch (error) {
      if (problemOf(error).unreachable) {
        throw error;
      }
      // Someone without the right to see bills still sees jobs and quotas.
      this._spending = null;
    }
  }

  /** Quota and the rate of cost change with each phase; one request covers a burst of them. */
  private _refreshSumsSoon(): void {
    clearTimeout(this._sumsTimer);
    this._sumsTimer = setTimeout(() => {
      Promise.all([this._fetchCosts(), this.client.queues()]).then(
        ([, queues]) => {
          this._queues = queues;
          this._emit();
        },
        () => {
          // The poll tells when the service is away.
        }
      );
    }, 800);
  }

  private _query(): Record<string, string | number | boolean> {
    return this._scope === 'mine' ? { limit: PAGE, mine: true } : { limit: PAGE };
  }

  private _onEvent(event: IServerEvent): void {
    if (event.event === 'task') {
      this.accept(JSON.parse(event.data) as Task);
    } else if (event.event === 'quota') {
      const changed = new Map((JSON.parse(event.data) as Queue[]).map(queue => [queue.id, queue]));
      this._queues = this._queues.map(queue => changed.get(queue.id) ?? queue);
      this._emit();
    } else if (event.event === 'gap') {
      void this._poll.refresh();
    }
  }

  /** A full page replaces what is known of its span; older rows that were loaded stay. */
  private _replace(items: Task[], next: string | null): void {
    const oldest = next === null ? -Infinity : Math.min(...items.map(task => Date.parse(task.created_at)));
    const ids = new Set(items.map(task => task.id));
    const kept = this._tasks.filter(
      task =>
        !ids.has(task.id) &&
        Date.parse(task.created_at) < oldest &&
        (this._scope === 'all' || this._isMine(task))
    );
    const before = new Map(this._tasks.map(task => [task.id, task]));
    this._tasks = kept;
    this._merge(
      items.map(task => {
        const known = before.get(task.id);
        if (known && !FINAL_PHASES.has(known.phase) && FINAL_PHASES.has(task.phase)) {
          this._finished.emit(task);
        }
        return known && known.version > task.version ? known : task;
      })
    );
    if (kept.length === 0) {
      this._cursor = next;
    }
  }

  private _isMine(task: Task): boolean {
    return task.owner === this._me?.name;
  }

  private _merge(items: Task[]): void {
    const all = new Map(this._tasks.map(task => [task.id, task]));
    for (const task of items) {
      all.set(task.id, task);
    }
    this._tasks = [...all.values()].sort((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at));
  }

  private _setPace(): void {
    const live = this._stream.state === 'live';
    this._poll.frequency = {
      interval: live ? LIVE_INTERVAL_MS : this._pollInterval,
      backoff: true,
      max: live ? LIVE_INTERVAL_MS : Math.max(AWAY_INTERVAL_MS, this._pollInterval)
    };
  }

  private _setConnection(connection: Connection): void {
    if (connection !== this._connection) {
      this._connection = connection;
      this._since = Date.now();
      this._emit();
    }
  }

  private _emit(): void {
    this._version++;
    this._changed.emit();
  }

  private _onVisibility = (): void => {
    if (document.hidden) {
      this._stream.pause();
    } else {
      this._stream.resume();
      void this._poll.refresh();
    }
  };

  private _onNetwork = (): void => {
    if (navigator.onLine) {
      this._stream.resume();
      void this._poll.refresh();
    } else {
      // An open stream would only be missed after its silence.
      this._stream.pause();
      this._setConnection('offline');
    }
  };

  private _poll: Poll;
  private _meter: Poll;
  private _stream: EventStream;
  private _sumsTimer: ReturnType<typeof setTimeout> | undefined;
  private _changed = new Signal<this, void>(this);
  private _finished = new Signal<this, Task>(this);
  private _version = 0;
  private _connection: Connection = 'loading';
  private _since = Date.now();
  private _error: ServiceProblem | null = null;
  private _offset = 0;
  private _me: Me | null = null;
  private _local: ILocalStatus | null = null;
  private _queues: readonly Queue[] = [];
  private _clusters: readonly ClusterCapacity[] = [];
  private _spending: ISpending | null = null;
  private _usage: readonly IUsage[] = [];
  private _tasks: readonly Task[] = [];
  private _cursor: string | null = null;
  private _scope: Scope = 'mine';
}
