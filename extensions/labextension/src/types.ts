/**
 * Names for the generated types of the service's OpenAPI document, and the bodies of the local server extension.
 *
 * The generator marks fields that have a default as optional; the service always sends them, which `Filled` says.
 */
import type { components } from './api';

type Schemas = components['schemas'];
type Filled<T, K extends keyof T> = Omit<T, K> & { [P in K]-?: NonNullable<T[P]> };

export type Accrual = Schemas['Accrual'];
export type Idleness = Schemas['Idleness'];
export type BillLine = Schemas['BillLine'];
export type CardCapacity = Schemas['CardCapacity'];
export type CardRequest = Schemas['CardRequest'];
export type ClusterCapacity = Schemas['ClusterCapacity'];
export type Dataset = Filled<Schemas['DatasetView'], 'places'>;
export type Environment = Filled<Schemas['Environment'], 'kernels'>;
export type Estimate = Schemas['Estimate'];
export type Lifecycle = Schemas['Lifecycle'];
export type Me = Schemas['Me'];
export type OutputFile = Schemas['OutputFile'];
export type Phase = Schemas['Phase'];
export type Progress = Schemas['Progress'];
export type Queue = Schemas['Queue'];
export type QuotaLine = Schemas['QuotaLine'];
export type Reason = Schemas['Reason'];
export type RecurringTask = Schemas['RecurringTask'];
export type Run = Schemas['Run'];
export type Schedule = Schemas['Schedule'];
export type Task = Filled<Schemas['Task'], 'reasons' | 'progress'>;
export type TaskBill = Schemas['TaskBill'];
export type TaskDetail = Filled<Schemas['TaskDetail'], 'reasons' | 'progress'>;
export type TaskEvent = Schemas['TaskEvent'];
export type TaskKind = Schemas['TaskKind'];
export type UsageSample = Schemas['UsageSample'];
export type Framework = Schemas['TaskSpec']['framework'];
export type TaskPage = { items: Task[]; next?: string | null };

/** A specification to submit: what is left out takes the service's default. */
export type TaskRequest = Partial<Schemas['TaskSpec']> & { name: string; kind: TaskKind };

/** Any JSON value, as a notebook's parameter may hold. */
export type Json = string | number | boolean | null | Json[] | { [key: string]: Json };

/** One assignment of the cell tagged `parameters`. */
export interface INotebookParameter {
  name: string;
  /** Name of the Python type: `int`, `float`, `bool`, `str`, `list` or `dict`; null: anything goes. */
  type: string | null;
  /** Null also when it is computed, or no JSON (nan). */
  default: Json;
  help?: string | null;
  /** Whether None may be given. */
  nullable?: boolean;
  /** The default as written. */
  source?: string;
}

export interface INotebookParameters {
  parameters: INotebookParameter[];
  kernel: string | null;
  /** Number of code cells. */
  cells: number;
}

/** What of the folder travels with the job: the file, its folder, or these paths. */
export type Include = 'notebook' | 'folder' | string[];

export interface ISnapshotPreview {
  files: { path: string; size: number }[];
  total_bytes: number;
  limit_bytes: number;
  refused?: IProblem | null;
}

/** Part of a card that this workspace holds. */
export interface ISlice {
  card_class: string;
  centi_cards: number;
  memory_mib: number;
  /** Card memory in use, MiB, where it is measured. */
  used_mib?: number | null;
}

export interface ILocalStatus {
  connected: boolean;
  service_url: string | null;
  user: string | null;
  since: string | null;
  slice: ISlice | null;
  workspace_task_id: string | null;
  /** Whether the Lab server places outputs of finished jobs by itself. */
  places_outputs?: boolean;
  /** Code of the refusal, while not connected. */
  problem?: string;
}

/** What the processes of this workspace use now, and what they may. */
export interface IUsage {
  cpu_millicores: number;
  memory_mib: number;
  cpu_limit: number | null;
  memory_limit: number | null;
  /** When the workspace is stopped because nothing runs in it; null: not soon. */
  stops_at: string | null;
}

/** One place that the scheduler weighed; scores in parts per million. */
export interface IPlace {
  cluster: string;
  pool: string;
  card_class?: string | null;
  score: number;
  parts: Record<string, number>;
}

/** Places that could not take the job, for one reason. */
export interface IRejected {
  code: string;
  message?: string;
  places: string[];
}

/** Why a job is where it is, or why it waits. Empty before the scheduler has looked at it. */
export interface IDecision {
  at?: string;
  action?: string;
  cluster?: string | null;
  pool?: string | null;
  policy?: string;
  reasons?: Reason[];
  scores?: IPlace[];
  rejected?: IRejected[];
}

/** What a submit would do. */
export interface IDryRun {
  spec: TaskRequest;
  estimate: Estimate;
}

/** application/problem+json of the service. */
export interface IProblem {
  type?: string;
  title?: string;
  status?: number;
  code?: string;
  /** Values for programs. */
  detail?: unknown;
  hint?: string | null;
  errors?: { field?: string; message?: string }[];
  reasons?: Reason[];
}

export const FINAL_PHASES: ReadonlySet<Phase> = new Set<Phase>([
  'SUCCEEDED',
  'FAILED',
  'CANCELLED',
  'PREEMPTED'
]);

/** Phases in which time is charged and the clock of a job runs. */
export const STARTED_PHASES: ReadonlySet<Phase> = new Set<Phase>([
  'STARTING',
  'RUNNING',
  'SUSPENDED',
  'UNKNOWN'
]);
