/** *Where* it runs: compute centre, queue, placement. */
import * as React from 'react';
import { missingAt } from '../datasets';
import type { ClusterCapacity, Dataset } from '../types';
import { useModel, useUi, type Loaded } from './context';
import { Field, Select } from './controls';
import { useTenant, type ISectionProps } from './dialogstate';
import { policyLabel } from './timeline';

const POLICIES = ['fifo', 'most-idle', 'lowest-price'];

export function WhereSection(
  props: ISectionProps & {
    datasets: Loaded<Dataset[]>;
    fits: string[] | null;
    asked: Record<string, number>;
  }
): React.JSX.Element {
  const { trans } = useUi();
  const { draft, change, offers } = props;
  const { me } = useModel();
  const name = React.useId();
  const chosen = draft.clusters?.[0] ?? '';
  const tenants = me?.tenants ?? [];
  const tenant = useTenant(draft);
  const queues = offers.queues.filter(queue => queue.tenant === tenant && queue.parent !== null);
  const unable = (cluster: ClusterCapacity): string => {
    const { datasets } = props;
    if (draft.kind === 'service' && !cluster.services) {
      return trans.__('Keeps no service running');
    }
    const missing =
      datasets.state === 'ready' ? missingAt(cluster.name, draft.datasets, datasets.value, tenant) : null;
    return missing === null ? '' : trans.__('Does not have %1', missing);
  };
  return (
    <>
      <div className="tsr-tiles" role="radiogroup" aria-label={trans.__('Cluster')}>
        <label className={`tsr-tile${chosen === '' ? ' tsr-mod-on' : ''}`}>
          <input
            type="radio"
            name={name}
            checked={chosen === ''}
            onChange={() => {
              change({ clusters: null });
            }}
          />
          <strong>{trans.__('Any cluster')}</strong>
          <span className="tsr-note">
            {props.fits?.length
              ? trans.__('Best now: %1', props.fits[0])
              : trans.__('The best one is chosen for you')}
          </span>
        </label>
        {offers.clusters.map(cluster => (
          <ClusterTile
            key={cluster.name}
            cluster={cluster}
            name={name}
            on={chosen === cluster.name}
            fits={props.fits === null || draft.clusters !== null || props.fits.includes(cluster.name)}
            asked={props.asked}
            unable={unable(cluster)}
            onChoose={() => {
              change({ clusters: [cluster.name] });
            }}
          />
        ))}
      </div>
      <div className="tsr-grid">
        {tenants.length > 1 ? (
          <Field label={trans.__('Tenant that pays')}>
            {id => (
              <Select
                id={id}
                value={tenant}
                options={tenants.map(value => ({ value, label: value }))}
                onChange={value => {
                  change({ tenant: value, queue: null });
                }}
              />
            )}
          </Field>
        ) : null}
        {queues.length > 0 ? (
          <Field label={trans.__('Queue')}>
            {id => (
              <Select
                id={id}
                value={draft.queue ?? ''}
                options={[
                  { value: '', label: trans.__('Default queue') },
                  ...queues.map(queue => ({
                    // A specification names a queue below its tenant's root.
                    value: queue.path.slice(tenant.length + 1),
                    label:
                      queue.waiting_tasks > 0
                        ? trans._n('%2 (%1 waiting)', '%2 (%1 waiting)', queue.waiting_tasks, queue.path)
                        : queue.path,
                    disabled: queue.state !== 'open'
                  }))
                ]}
                onChange={value => {
                  change({ queue: value || null });
                }}
              />
            )}
          </Field>
        ) : null}
        <Field label={trans.__('Placement')}>
          {id => (
            <Select
              id={id}
              value={draft.policy ?? ''}
              options={[
                { value: '', label: trans.__('As the queue says') },
                ...POLICIES.map(value => ({ value, label: policyLabel(value, trans) }))
              ]}
              onChange={value => {
                change({ policy: value || null });
              }}
            />
          )}
        </Field>
      </div>
    </>
  );
}

function ClusterTile(props: {
  cluster: ClusterCapacity;
  name: string;
  on: boolean;
  fits: boolean;
  /** What the job asks for, by dimension. */
  asked: Record<string, number>;
  /** Why it cannot run the job whatever it has free; empty: it can. */
  unable: string;
  onChoose: () => void;
}): React.JSX.Element {
  const { trans, format } = useUi();
  const { cluster } = props;
  const reachable = cluster.state === 'ok' || cluster.state === 'suspect';
  const usable = reachable && props.unable === '';
  const states: Record<ClusterCapacity['state'], string> = {
    ok: '',
    suspect: trans.__('Slow to answer'),
    unreachable: trans.__('Out of contact'),
    draining: trans.__('Taking no new jobs'),
    never_connected: trans.__('Not connected yet')
  };
  const free = format.resources(
    Object.fromEntries(
      Object.entries(cluster.free).filter(([dimension]) => !dimension.startsWith('card_memory/'))
    )
  );
  const wait =
    cluster.waiting_tasks === 0
      ? trans.__('Nobody waits')
      : cluster.eta_seconds_p50
        ? trans.__('Wait %1', format.about(cluster.eta_seconds_p50))
        : trans._n('%1 job waiting', '%1 jobs waiting', cluster.waiting_tasks);
  const tooSmall = Object.entries(props.asked).some(
    ([dimension, amount]) => amount > (cluster.total[dimension] ?? 0)
  );
  return (
    <label className={`tsr-tile${props.on ? ' tsr-mod-on' : ''}${usable ? '' : ' tsr-mod-off'}`}>
      <input type="radio" name={props.name} checked={props.on} disabled={!usable} onChange={props.onChoose} />
      <strong>{cluster.name}</strong>
      {usable ? (
        <>
          <span className="tsr-note">{trans.__('Free: %1', free || trans.__('nothing'))}</span>
          <span className="tsr-note">
            {props.fits
              ? wait
              : tooSmall
                ? trans.__('Too small for this job')
                : trans.__('Full at the moment')}
          </span>
        </>
      ) : (
        <span className="tsr-note">{reachable ? props.unable : states[cluster.state]}</span>
      )}
      {cluster.state === 'suspect' ? <span className="tsr-note">{states.suspect}</span> : null}
    </label>
  );
}
