/** Calls to the Tessera service through the same-origin server extension. */
import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { folderOf } from './draft';
import { wholeCharacters } from './logbuffer';
import { problemOf, ServiceProblem } from './problem';
import { openSocket } from './socket';
import type {
  Accrual,
  ClusterCapacity,
  Dataset,
  Environment,
  Estimate,
  Idleness,
  IDecision,
  IDryRun,
  ILocalStatus,
  INotebookParameters,
  IProblem,
  ISnapshotPreview,
  IUsage,
  Include,
  Me,
  OutputFile,
  Queue,
  RecurringTask,
  Task,
  TaskBill,
  TaskDetail,
  TaskEvent,
  TaskPage,
  TaskRequest,
  UsageSample
} from './types';

/** The server takes chosen files relative to the folder of the job's own file. */
function fromFolder(path: string, include: Include): Include {
  const folder = folderOf(path);
  return Array.isArray(include) && folder
    ? include.map(name => (name.startsWith(`${folder}/`) ? name.slice(folder.length + 1) : name))
    : include;
}

/** An estimate looks at no file, but a specification names its entry among its inputs. */
function withStandIn(spec: TaskRequest): TaskRequest {
  const files = spec.entry ? [{ path: spec.entry, sha256: '0'.repeat(64), size: 0, mode: 0o644 }] : [];
  // Of a recurring job each firing is estimated like a single one.
  const schedule = spec.schedule?.cron ? null : spec.schedule;
  return { ...spec, schedule, inputs: { kind: 'snapshot', files } };
}

type Query = Record<string, string | number | boolean | null | undefined>;

export interface ILogPiece {
  text: string;
  /** Bytes of the log that `text` stands for. */
  start: number;
  end: number;
  /** Bytes that the log has now. */
  size: number;
}

export class Client {
  /** @param language BCP 47 tag of the texts the service answers with. */
  constructor(
    readonly settings: ServerConnection.ISettings,
    readonly language: string
  ) {}

  url(path: string, query: Query = {}): string {
    const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
    const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
    return URLExt.join(this.settings.baseUrl, 'tessera/api', path) + (search ? `?${search}` : '');
  }

  async request(url: string, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    headers.set('Accept-Language', this.language);
    let response: Response;
    try {
      response = await ServerConnection.makeRequest(
        url,
        { ...init, headers: Object.fromEntries(headers) },
        this.settings
      );
    } catch (error) {
      if (init.signal?.aborted) {
        throw error;
      }
      throw problemOf(error);
    }
    if (!response.ok && response.status !== 304) {
      const problem = (await response.json().catch(() => ({}))) as IProblem & { message?: string };
      throw new ServiceProblem(
        { title: problem.message ?? response.statusText, ...problem },
        response.status
      );
    }
    return response;
  }

  private async _get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
    const response = await this.request(this.url(path, query), { signal: signal ?? null, cache: 'no-store' });
    return (await response.json()) as T;
  }

  private _post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
    return this._send('POST', path, body, signal);
  }

  private async _send<T>(method: string, path: string, body: unknown, signal?: AbortSignal): Promise<T> {
    const response = await this.request(this.url(path), {
      method,
      body: JSON.stringify(body),
      headers: { 'Content-Type': 'application/json' },
      signal: signal ?? null
    });
    return (await response.json()) as T;
  }

  me = (): Promise<Me> => this._get('v1/me');
  environments = (): Promise<Environment[]> => this._get('v1/environments');
  capacity = (): Promise<ClusterCapacity[]> => this._get('v1/capacity');
  queues = (): Promise<Queue[]> => this._get('v1/queues');
  datasets = (): Promise<Dataset[]> => this._get('v1/datasets');
  tasks = (query: Query): Promise<TaskPage> => this._get('v1/tasks', query);
  task = (id: string): Promise<TaskDetail> => this._get(`v1/tasks/${id}`);
  taskEvents = (id: string): Promise<TaskEvent[]> => this._get(`v1/tasks/${id}/events`);
  bill = (id: string): Promise<TaskBill> => this._get(`v1/tasks/${id}/bill`);
  outputs = (id: string): Promise<OutputFile[]> => this._get(`v1/tasks/${id}/outputs`);
  /** What the latest run used, oldest first. */
  measuredUse = (id: string): Promise<UsageSample[]> => this._get(`v1/tasks/${id}/usage`);
  cancel = (id: string): Promise<Task> => this._post(`v1/tasks/${id}/cancel`, {});
  retry = (id: string): Promise<Task> => this._post(`v1/tasks/${id}/retry`, {});
  decision = (id: string): Promise<IDecision> => this._get(`v1/tasks/${id}/decision`);
  estimate = (spec: TaskRequest, signal?: AbortSignal): Promise<Estimate> =>
    this._post('v1/estimate', withStandIn(spec), signal);
  /** What has been spent since a moment, and the speed now. */
  spent = (since: Date): Promise<Accrual> => this._get('v1/costs/live', { since: since.toISOString() });

  /** Address from which the browser downloads an output. */
  outputUrl = (id: string, sha256: string): string => this.url(`v1/tasks/${id}/outputs/${sha256}`);

  /** The executed notebook so far; null if it has not changed since `etag` or does not exist yet. */
  async notebook(id: string, etag: string | null): Promise<{ content: unknown; etag: string | null } | null> {
    try {
      const response = await this.request(this.url(`v1/tasks/${id}/notebook`), {
        headers: etag ? { 'If-None-Match': etag } : {},
        cache: 'no-store'
      });
      if (response.status === 304) {
        return null;
      }
      return { content: await response.json(), etag: response.headers.get('ETag') };
    } catch (error) {
      if (problemOf(error).status === 404) {
        return null;
      }
      throw error;
    }
  }

  /** A piece of a log from byte `offset`; null while there is none. */
  async log(
    id: string,
    stream: 'output' | 'progress' | `part-${number}`,
    offset: number
  ): Promise<ILogPiece | null> {
    try {
      const response = await this.request(
        this.url(`v1/tasks/${id}/logs/${stream}`, { offset, limit: 1 << 20 }),
        {
          cache: 'no-store'
        }
      );
      const bytes = new Uint8Array(await response.arrayBuffer());
      const start = Number(response.headers.get('X-Log-Offset') ?? offset);
      const size = Number(response.headers.get('X-Log-End') ?? start + bytes.length);
      // What is cut within a character comes whole with the next piece, unless nothing follows.
      const length = start + bytes.length < size ? wholeCharacters(bytes) : bytes.length;
      const text = new TextDecoder().decode(bytes.subarray(0, length));
      return { text, start, end: start + length, size };
    } catch (error) {
      if (problemOf(error).status === 404) {
        return null;
      }
      throw error;
    }
  }

  /** Opens a stream of server-sent events: `events`, or `tasks/<id>/follow`. */
  openStream(
    path: string,
    lastEventId: string | null,
    signal: AbortSignal,
    query: Query = {}
  ): Promise<Response> {
    const token = this.settings.appendToken && this.settings.token ? this.settings.token : null;
    const own = { last_event_id: lastEventId, language: this.language, token };
    const address = new URL(this.url(`stream/${path}`, { ...query, ...own }), location.href);
    address.protocol = address.protocol.replace('http', 'ws');
    return openSocket(address.href, signal);
  }

  localStatus = (): Promise<ILocalStatus> => this._get('local/status');
  parameters = (path: string): Promise<INotebookParameters> => this._get('local/parameters', { path });
  snapshotPreview = (path: string, include: Include, signal?: AbortSignal): Promise<ISnapshotPreview> =>
    this._post('local/snapshot-preview', { path, include: fromFolder(path, include) }, signal);
  /** A specification with a cron expression becomes a recurring job instead of one task. */
  submit = (
    path: string,
    include: Include,
    spec: TaskRequest,
    idempotencyKey: string
  ): Promise<Task | RecurringTask> =>
    this._post('local/submit', {
      path,
      include: fromFolder(path, include),
      spec,
      idempotency_key: idempotencyKey
    });
  dryRun = (path: string, include: Include, spec: TaskRequest): Promise<IDryRun> =>
    this._post('local/submit', { path, include: fromFolder(path, include), spec, dry_run: true });
  usage = (): Promise<IUsage> => this._get('local/usage');
  /** Keeps an idle workspace for an hour. */
  keepWorkspace = (id: string): Promise<Idleness> => this._post(`v1/workspaces/${id}/keep`, {});
  recurring = (): Promise<RecurringTask[]> => this._get('v1/schedules');
  setRecurring = (id: string, enabled: boolean): Promise<RecurringTask> =>
    this._send('PATCH', `v1/schedules/${id}`, { enabled });
  async removeRecurring(id: string): Promise<void> {
    await this.request(this.url(`v1/schedules/${id}`), { method: 'DELETE' });
  }
  placeOutputs = (id: string): Promise<{ placed: string[] }> => this._post(`local/outputs/${id}/place`, {});
}
