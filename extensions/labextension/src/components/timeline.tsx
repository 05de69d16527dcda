/** What happened to a job, and why it runs or waits where it does. */
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import { FINAL_PHASES, type IDecision, type TaskDetail, type TaskEvent } from '../types';
import { useLoad, useModel, useNow, useUi } from './context';
import { Loading, ProblemNote, Time } from './controls';
import { PhaseIcon, phaseLabel, reasonText } from './phase';

export function Timeline(props: { events: TaskEvent[]; detail: TaskDetail }): React.JSX.Element {
  const { trans, format } = useUi();
  const { events, detail } = props;
  const final = FINAL_PHASES.has(detail.phase);
  const now = useNow(!final);
  const moves = events.filter(event => event.phase_to);
  const lasted = (event: TaskEvent): string => {
    const next = moves[moves.indexOf(event) + 1];
    if (!next && final) {
      return '';
    }
    const until = next ? Date.parse(next.at) : now;
    return format.lasting((until - Date.parse(event.at)) / 1000);
  };
  return (
    <>
      <ol className="tsr-timeline">
        {events.map(event => (
          <li key={event.id}>
            {event === events.at(-1) && event.phase_to ? (
              <PhaseIcon phase={event.phase_to} />
            ) : (
              <span className="tsr-dot" />
            )}
            <div>
              <strong>{event.phase_to ? phaseLabel(event.phase_to, trans) : trans.__('Note')}</strong>
              {event.reason ? <p>{reasonText(event.reason)}</p> : null}
              <span className="tsr-note">{actor(event.actor, trans)}</span>
            </div>
            <span className="tsr-note tsr-tabular">{event.phase_to ? lasted(event) : ''}</span>
            <Time iso={event.at} seconds />
          </li>
        ))}
      </ol>
      <Explanation detail={detail} />
    </>
  );
}

function actor(name: string, trans: TranslationBundle): string {
  const [kind, who] = name.split(':');
  switch (kind) {
    case 'user':
      return trans.__('by %1', who ?? '');
    case 'scheduler':
      return trans.__('by the scheduler');
    case 'service':
      return trans.__('by Tessera');
    case 'schedule':
      return trans.__('by schedule %1', (who ?? '').slice(0, 8));
    case 'cluster':
      return trans.__('reported by cluster %1', who ?? '');
    default:
      return name;
  }
}

export function policyLabel(policy: string, trans: TranslationBundle): string {
  const labels: Record<string, string> = {
    fifo: trans.__('First that fits'),
    'most-idle': trans.__('Most idle'),
    'lowest-price': trans.__('Lowest price')
  };
  return labels[policy] ?? policy;
}

function scorerLabel(name: string, trans: TranslationBundle): string {
  const labels: Record<string, string> = {
    preference: trans.__('operator’s preference'),
    idle: trans.__('idle capacity'),
    price: trans.__('price')
  };
  return labels[name] ?? name;
}

function Explanation(props: { detail: TaskDetail }): React.JSX.Element | null {
  const { trans } = useUi();
  const { client } = useModel();
  const { id, version, phase, cluster } = props.detail;
  const [decision, reload] = useLoad(() => client.decision(id), [client, id, version]);
  const waiting = phase === 'QUEUED';
  return (
    <section className="tsr-why" aria-labelledby="tsr-why">
      <h2 id="tsr-why">
        {waiting ? trans.__('Why it waits') : cluster ? trans.__('Why here') : trans.__('Why it waited')}
      </h2>
      {decision.state === 'loading' ? <Loading rows={2} /> : null}
      {decision.state === 'failed' ? <ProblemNote error={decision.error} onRetry={reload} /> : null}
      {decision.state === 'ready' ? <Decision decision={decision.value} waiting={waiting} /> : null}
    </section>
  );
}

function Decision(props: { decision: IDecision; waiting: boolean }): React.JSX.Element {
  const { trans, format } = useUi();
  const { decision, waiting } = props;
  const { at, cluster, policy = '', scores = [], rejected = [], reasons = [] } = decision;
  if (!at) {
    return <p className="tsr-hint">{trans.__('The scheduler has not looked at this job yet.')}</p>;
  }
  return (
    <>
      {!waiting && cluster ? (
        <p>
          {trans.__(
            'The scheduler chose %1 by the rule “%2” at %3.',
            cluster,
            policyLabel(policy, trans),
            format.time(at, true)
          )}
        </p>
      ) : null}
      {reasons.length > 0 ? (
        <ul>
          {reasons.map((reason, index) => (
            <li key={index}>{reasonText(reason)}</li>
          ))}
        </ul>
      ) : null}
      {scores.length > 0 ? (
        <table className="tsr-table">
          <thead>
            <tr>
              <th scope="col">{trans.__('Cluster that fits')}</th>
              <th scope="col">{trans.__('Judged by')}</th>
              <th scope="col" className="tsr-numeric">
                {trans.__('Score')}
              </th>
            </tr>
          </thead>
          <tbody>
            {scores.map(place => (
              <tr key={`${place.cluster}/${place.pool}`}>
                <td>
                  {place.cluster}
                  <span className="tsr-sub">{place.pool}</span>
                </td>
                <td>
                  {Object.entries(place.parts)
                    .map(([name, value]) => `${scorerLabel(name, trans)} ${format.percent(value, 1e6)}`)
                    .join(' · ')}
                </td>
                <td className="tsr-numeric">{format.percent(place.score, 1e6)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : null}
      {rejected.length > 0 ? (
        <>
          <h3>{trans.__('Not possible')}</h3>
          <ul>
            {rejected.map(group => (
              <li key={group.code}>
                {group.message ?? group.code} <span className="tsr-note">{group.places.join(', ')}</span>
              </li>
            ))}
          </ul>
        </>
      ) : null}
    </>
  );
}
