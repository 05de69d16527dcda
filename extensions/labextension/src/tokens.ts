/** What other Lab extensions may use. */
import { Token } from '@lumino/coreutils';
import type { ISignal } from '@lumino/signaling';
import type { Client } from './client';
import type { ServiceProblem } from './problem';
import type { Accrual, ClusterCapacity, ILocalStatus, IUsage, Me, Queue, Task } from './types';

/**
 * How the extension is connected: `live` by server-sent events, `polling` when they are not to be had, `offline`
 * when the service does not answer.
 */
export type Connection = 'loading' | 'live' | 'polling' | 'offline';

/** Whose jobs are listed. */
export type Scope = 'mine' | 'all';

export interface ISpending {
  today: Accrual;
  month: Accrual;
}

/** State of the service as this window knows it. */
export interface ITesseraModel {
  readonly client: Client;
  readonly changed: ISignal<ITesseraModel, void>;
  /** A job came to its end while this window watched. */
  readonly finished: ISignal<ITesseraModel, Task>;
  /** Grows with every change. */
  readonly version: number;

  readonly connection: Connection;
  /** Since when `connection` is what it is, milliseconds. */
  readonly since: number;
  /** Why the service does not answer. */
  readonly error: ServiceProblem | null;
  readonly me: Me | null;
  readonly local: ILocalStatus | null;
  readonly queues: readonly Queue[];
  readonly clusters: readonly ClusterCapacity[];
  readonly spending: ISpending | null;
  /** What this workspace used, oldest first. */
  readonly usage: readonly IUsage[];
  /** Newest first. */
  readonly tasks: readonly Task[];
  readonly hasMore: boolean;
  scope: Scope;

  /** Milliseconds since the epoch on the service's clock. */
  now(): number;
  refresh(): Promise<void>;
  loadMore(): Promise<void>;
  /** Takes a newer state of a task; an older one is ignored. */
  accept(task: Task): void;
  stop(id: string): Promise<void>;
  retry(id: string): Promise<Task>;
}

export const ITesseraModel = new Token<ITesseraModel>(
  '@tessera/lab:ITesseraModel',
  'Jobs, quotas and costs of the Tessera service, kept up to date.'
);

/** Commands of the extension. */
export const CommandIds = {
  /** Args: `path`, or `from: 'browser'` for the selection, or `pick: true` to choose a file. */
  run: 'tessera:run-as-job',
  openJobs: 'tessera:open-jobs',
  /** Args: `id` and `name` of the job; `beside: true` splits the main area. */
  openJob: 'tessera:open-job',
  /** Args: `id` of the job. */
  clone: 'tessera:clone-job',
  showCompute: 'tessera:show-compute',
  /** Args: `command` and what it takes; opens a tab again after a reload. */
  restore: 'tessera:restore',
  refresh: 'tessera:refresh'
} as const;
