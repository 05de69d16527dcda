/** Order and selection of the rows of the jobs table. */
import { accrued } from './accrual';
import { FINAL_PHASES, type Phase, type Task } from './types';

export type Column = 'state' | 'name' | 'cluster' | 'progress' | 'elapsed' | 'cost' | 'created';
export type Direction = 'ascending' | 'descending';

export interface IOrder {
  column: Column;
  direction: Direction;
}

export type Group = 'all' | 'active' | 'succeeded' | 'failed';

export interface IFilter {
  group: Group;
  text: string;
  cluster: string | null;
}

const PHASE_ORDER: readonly Phase[] = [
  'RUNNING',
  'STARTING',
  'SUSPENDED',
  'UNKNOWN',
  'PENDING',
  'DISPATCHED',
  'RESERVED',
  'QUEUED',
  'FAILED',
  'PREEMPTED',
  'CANCELLED',
  'SUCCEEDED'
];

/** Seconds a job has run, or ran; 0 before it starts. `now` in milliseconds on the service's clock. */
export function elapsedSeconds(
  task: { started_at?: string | null; finished_at?: string | null },
  now: number
): number {
  if (!task.started_at) {
    return 0;
  }
  const end = task.finished_at ? Date.parse(task.finished_at) : now;
  return Math.max(0, Math.floor((end - Date.parse(task.started_at)) / 1000));
}

function key(task: Task, column: Column, now: number): number | string {
  switch (column) {
    case 'state':
      return PHASE_ORDER.indexOf(task.phase);
    case 'name':
      return task.name;
    case 'cluster':
      return `${task.cluster ?? ''}\u0000${task.queue}`;
    case 'progress': {
      if (task.position) {
        return -task.position.position;
      }
      const total = task.progress.cells_total ?? 0;
      return total > 0 ? task.progress.cells_done / total : 0;
    }
    case 'elapsed':
      return elapsedSeconds(task, now);
    case 'cost':
      return task.cost ? Number(accrued(task.cost, now)) : 0;
    case 'created':
      return Date.parse(task.created_at);
  }
}

/** A sorted copy; equal rows stay newest first. */
export function sortTasks(tasks: readonly Task[], order: IOrder, now: number, locale?: string): Task[] {
  const collator = new Intl.Collator(locale, { numeric: true, sensitivity: 'base' });
  const sign = order.direction === 'ascending' ? 1 : -1;
  return tasks
    .map(task => ({ task, key: key(task, order.column, now), created: Date.parse(task.created_at) }))
    .sort((a, b) => {
      const difference =
        typeof a.key === 'string' || typeof b.key === 'string'
          ? collator.compare(String(a.key), String(b.key))
          : a.key - b.key;
      return difference !== 0 ? sign * difference : b.created - a.created;
    })
    .map(row => row.task);
}

/** The rows that every part of the filter lets through. */
export function filterTasks(tasks: readonly Task[], filter: IFilter): Task[] {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  return tasks.filter(task => {
    const text = [task.name, task.entry, task.owner, task.queue, task.cluster].join(' ').toLowerCase();
    return (
      inGroup(task.phase, filter.group) &&
      (filter.cluster === null || task.cluster === filter.cluster) &&
      words.every(word => text.includes(word))
    );
  });
}

export function inGroup(phase: Phase, group: Group): boolean {
  switch (group) {
    case 'all':
      return true;
    case 'active':
      return !FINAL_PHASES.has(phase);
    case 'succeeded':
      return phase === 'SUCCEEDED';
    case 'failed':
      return FINAL_PHASES.has(phase) && phase !== 'SUCCEEDED';
  }
}
