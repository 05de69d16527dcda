/** What it would cost, what it does to the quota, when it would start: always in view while choosing. */
import * as React from 'react';
import { describeCron } from '../cron';
import type { Estimate, QuotaLine } from '../types';
import { useUi } from './context';
import { Announce, Bar, ProblemNote } from './controls';
import type { IEstimateState } from './dialogstate';
import { reasonText } from './phase';

export function Footer(props: {
  state: IEstimateState;
  waiting: boolean;
  /** Cron expression of a recurring job. */
  cron: string | null;
  inFlight: boolean;
  ready: boolean;
  problem: string | null;
  previewing: boolean;
  onPreview: () => void;
  onCancel: () => void;
  onSubmit: () => void;
}): React.JSX.Element {
  const { trans } = useUi();
  const { estimate, error, pending } = props.state;
  return (
    <footer className="tsr-dialog-foot">
      <div className={`tsr-estimate${pending ? ' tsr-mod-pending' : ''}`}>
        {error ? (
          <ProblemNote error={error} />
        ) : (
          <>
            <Cost estimate={estimate} />
            <QuotaEffect lines={estimate?.quota_after ?? []} />
            <Verdict estimate={estimate} cron={props.cron} problem={props.problem} waiting={props.waiting} />
          </>
        )}
      </div>
      <div className="tsr-actions">
        <button
          type="button"
          className="tsr-button tsr-mod-plain"
          disabled={props.waiting}
          aria-pressed={props.previewing}
          onClick={props.onPreview}
        >
          {props.previewing ? trans.__('Back to the form') : trans.__('Preview')}
        </button>
        <button type="button" className="tsr-button" disabled={props.inFlight} onClick={props.onCancel}>
          {trans.__('Cancel')}
        </button>
        <button
          type="button"
          className="tsr-button tsr-mod-accept"
          disabled={!props.ready}
          aria-keyshortcuts="Control+Enter"
          title={trans.__('Ctrl+Enter')}
          onClick={props.onSubmit}
        >
          {props.inFlight
            ? trans.__('Submitting…')
            : props.cron === null
              ? trans.__('Run as job')
              : trans.__('Schedule job')}
        </button>
      </div>
    </footer>
  );
}

function Cost(props: { estimate: Estimate | null }): React.JSX.Element {
  const { trans, format } = useUi();
  const { estimate } = props;
  let amount = '—';
  let note = '';
  if (estimate) {
    const { low_micro: low, high_micro: high, seconds_high: seconds, currency } = estimate;
    const rate = format.rate(estimate.nano_per_hour, currency);
    if (typeof low === 'number' && typeof high === 'number') {
      const digits = high < 100_000 ? 4 : 2;
      const most = format.money(high, currency, digits);
      amount =
        low === high
          ? most
          : low === 0
            ? trans.__('up to %1', most)
            : trans.__('%1 – %2', format.money(low, currency, digits), most);
      note = seconds ? trans.__('%1, if it runs %2', rate, format.about(seconds)) : rate;
    } else {
      amount = rate;
      note = trans.__('while it runs');
    }
  }
  return (
    <div className="tsr-estimate-part tsr-estimate-cost">
      <span className="tsr-label">{trans.__('Cost')}</span>
      <strong className="tsr-figure">{amount}</strong>
      <span className="tsr-note">{note || ' '}</span>
    </div>
  );
}

function QuotaEffect(props: { lines: QuotaLine[] }): React.JSX.Element {
  const { trans, format } = useUi();
  const lines = props.lines.filter(line => !line.dimension.startsWith('card_memory/')).slice(0, 3);
  return (
    <div className="tsr-estimate-part tsr-estimate-quota">
      <span className="tsr-label">{trans.__('Quota afterwards')}</span>
      {lines.map(line => {
        const { limit } = line;
        const name = format.dimension(line.dimension);
        const used = format.amount(line.dimension, line.used);
        if (limit === null) {
          return (
            <div key={line.dimension} className="tsr-quota-line">
              <span>{name}</span>
              <span className="tsr-tabular tsr-mod-wide">{trans.__('%1, no limit', used)}</span>
            </div>
          );
        }
        return (
          <div key={line.dimension} className="tsr-quota-line">
            <span>{name}</span>
            <Bar
              label={trans.__('%1: %2 of %3', name, used, format.amount(line.dimension, limit))}
              value={line.used}
              max={limit}
              tone={line.used > limit ? 'over' : line.used > limit * 0.85 ? 'warning' : 'normal'}
            />
            <span className="tsr-tabular">
              {trans.__('%1 of %2', used, format.amount(line.dimension, limit))}
            </span>
          </div>
        );
      })}
    </div>
  );
}

function Verdict(props: {
  estimate: Estimate | null;
  cron: string | null;
  problem: string | null;
  waiting: boolean;
}): React.JSX.Element {
  const { trans, format } = useUi();
  const { estimate } = props;
  let tone = 'wait';
  let text = trans.__('Working it out…');
  let why = '';
  if (props.problem) {
    tone = 'never';
    text = props.problem;
  } else if (estimate) {
    tone = estimate.verdict;
    why = reasonText(estimate.reasons[0]);
    if (estimate.verdict !== 'never' && props.cron !== null) {
      tone = 'wait';
      text = describeCron(props.cron, trans, format.locale);
      why = '';
    } else if (estimate.verdict === 'now') {
      text = trans.__('Starts now');
    } else if (estimate.verdict === 'never') {
      text = trans.__('Cannot run like this');
    } else {
      const eta = estimate.position?.eta_seconds_p50;
      text = eta ? trans.__('Starts in %1', format.about(eta)) : trans.__('Waits in the queue');
      const ahead = estimate.position?.ahead_tasks ?? 0;
      why = [ahead > 0 ? trans._n('%1 job ahead', '%1 jobs ahead', ahead) : '', why]
        .filter(Boolean)
        .join(' · ');
    }
  } else if (props.waiting) {
    text = trans.__('Loading');
  }
  const mark = { now: '●', wait: '◔', never: '▲' }[tone] ?? '◔';
  return (
    <div className={`tsr-estimate-part tsr-verdict tsr-mod-${tone}`}>
      <span className="tsr-label">{trans.__('Start')}</span>
      <strong>
        <span aria-hidden="true">{mark}</span> {text}
      </strong>
      <span className="tsr-note">{why || ' '}</span>
      <Announce text={`${text} ${why}`} />
    </div>
  );
}
