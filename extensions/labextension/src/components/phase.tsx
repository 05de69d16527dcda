/** State of a job: icon and words, never colour alone. */
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import { STARTED_PHASES, type Phase, type Reason, type Task } from '../types';
import { useUi } from './context';

export function phaseLabel(phase: Phase, trans: TranslationBundle): string {
  const labels: Record<Phase, string> = {
    QUEUED: trans.__('Queued'),
    RESERVED: trans.__('Reserved'),
    DISPATCHED: trans.__('Sent to cluster'),
    PENDING: trans.__('Preparing'),
    STARTING: trans.__('Starting'),
    RUNNING: trans.__('Running'),
    SUSPENDED: trans.__('Suspended'),
    UNKNOWN: trans.__('Out of contact'),
    SUCCEEDED: trans.__('Succeeded'),
    FAILED: trans.__('Failed'),
    CANCELLED: trans.__('Stopped'),
    PREEMPTED: trans.__('Pre-empted')
  };
  return labels[phase];
}

type Look = 'waiting' | 'moving' | 'running' | 'held' | 'good' | 'bad' | 'ended';

const LOOKS: Record<Phase, Look> = {
  QUEUED: 'waiting',
  RESERVED: 'waiting',
  DISPATCHED: 'moving',
  PENDING: 'moving',
  STARTING: 'moving',
  RUNNING: 'running',
  SUSPENDED: 'held',
  UNKNOWN: 'held',
  SUCCEEDED: 'good',
  FAILED: 'bad',
  CANCELLED: 'ended',
  PREEMPTED: 'ended'
};

const SHAPES: Record<Look, React.JSX.Element> = {
  waiting: <path d="M8 4.6V8l2.3 1.6" />,
  moving: <path d="M8 1.75A6.25 6.25 0 0 1 14.25 8" className="tsr-spin" />,
  running: <path d="M6.6 5.4v5.2L10.8 8z" fill="currentColor" />,
  held: <path d="M6.4 5.6v4.8M9.6 5.6v4.8" />,
  good: <path d="M5.2 8.2l2 2 3.6-4.2" />,
  bad: <path d="M5.9 5.9l4.2 4.2M10.1 5.9l-4.2 4.2" />,
  ended: <path d="M5.4 8h5.2" />
};

export function PhaseIcon(props: { phase: Phase }): React.JSX.Element {
  const look = LOOKS[props.phase];
  return (
    <svg
      className={`tsr-phase-icon tsr-mod-${look}`}
      viewBox="0 0 16 16"
      width="16"
      height="16"
      aria-hidden="true"
    >
      <circle cx="8" cy="8" r="6.25" className="tsr-ring" />
      {SHAPES[look]}
    </svg>
  );
}

export function PhaseBadge(props: {
  task: Pick<Task, 'phase' | 'cancel_requested'>;
  large?: boolean;
}): React.JSX.Element {
  const { trans } = useUi();
  const { phase, cancel_requested: stopping } = props.task;
  const started = STARTED_PHASES.has(phase);
  return (
    <span className={`tsr-phase tsr-mod-${LOOKS[phase]}${props.large ? ' tsr-mod-large' : ''}`}>
      <PhaseIcon phase={phase} />
      <span>{stopping && started ? trans.__('Stopping') : phaseLabel(phase, trans)}</span>
    </span>
  );
}

/** What a person is told first: the highest-ranked reason, in their language. */
export function reasonText(reason: Reason | null | undefined): string {
  return reason ? reason.message || reason.code : '';
}
