/** Left side panel *Compute* and the chip of the status bar. */
import * as React from 'react';
import { accrued, totalRate } from '../accrual';
import { tesseraIcon } from '../icons';
import { elapsedSeconds } from '../sorting';
import { CommandIds, type ITesseraModel } from '../tokens';
import { FINAL_PHASES, type Accrual, type IUsage, type Queue, type Task } from '../types';
import { ConnectionPill, OfflineNotice } from './connection';
import { useModel, useNow, useUi } from './context';
import { Bar, Loading } from './controls';
import { PhaseIcon, phaseLabel } from './phase';
import { Sparkline } from './sparkline';

function activeOf(model: ITesseraModel): Task[] {
  return model.tasks.filter(task => task.owner === model.me?.name && !FINAL_PHASES.has(task.phase));
}

export function ComputePanel(): React.JSX.Element {
  const { trans } = useUi();
  const model = useModel();
  const roots = model.queues.filter(
    queue => queue.parent === null && model.me?.tenants.includes(queue.tenant)
  );
  return (
    <div className="tsr-compute">
      <OfflineNotice />
      <header className="tsr-panel-head">
        <h2>{trans.__('Compute')}</h2>
        <ConnectionPill />
      </header>
      {model.connection === 'loading' ? (
        <Loading />
      ) : (
        <>
          <Workspace />
          <Cost />
          {roots.map(queue => (
            <Quota key={queue.id} queue={queue} />
          ))}
          <Jobs />
        </>
      )}
    </div>
  );
}

function ServiceLink(props: { path: string; children: React.ReactNode }): React.JSX.Element | null {
  const url = useModel().local?.service_url;
  return url ? (
    <a className="tsr-link" href={`${url}/${props.path}`} target="_blank" rel="noopener">
      {props.children}
    </a>
  ) : null;
}

/** What this workspace holds and what it makes of it. */
function Workspace(): React.JSX.Element {
  const { trans, format } = useUi();
  const model = useModel();
  const id = model.local?.workspace_task_id;
  const slice = model.local?.slice;
  const task = model.tasks.find(item => item.id === id);
  const now = useNow(task !== undefined);
  return (
    <section aria-labelledby="tsr-compute-workspace">
      <div className="tsr-section-head">
        <h3 id="tsr-compute-workspace">{trans.__('This workspace')}</h3>
        {id ? <ServiceLink path={`workspaces/${id}`}>{trans.__('Manage')}</ServiceLink> : null}
      </div>
      <div className="tsr-slice">
        <strong>
          {slice ? `${format.cards(slice.centi_cards)} × ${slice.card_class}` : trans.__('CPU only')}
        </strong>
        <span className="tsr-note">
          {slice?.memory_mib
            ? trans.__('%1 of card memory', format.mebibytes(slice.memory_mib))
            : trans.__('No card is attached')}
        </span>
        {task ? (
          <span className="tsr-note">
            {trans.__('Running for %1', format.clock(elapsedSeconds(task, now)))}
            {task.cost ? ` · ${format.rate(task.cost.nano_per_hour, task.cost.currency)}` : ''}
          </span>
        ) : null}
      </div>
      <Meter
        label={trans.__('CPU')}
        of={usage => usage.cpu_millicores}
        limit={usage => usage.cpu_limit}
        show={value => format.number(value / 1000)}
        showLimit={value => format.cores(value)}
      />
      <Meter
        label={trans.__('Memory')}
        of={usage => usage.memory_mib}
        limit={usage => usage.memory_limit}
        show={value => format.mebibytes(value)}
        showLimit={value => format.mebibytes(value)}
      />
    </section>
  );
}

function Meter(props: {
  label: string;
  of: (usage: IUsage) => number;
  limit: (usage: IUsage) => number | null;
  show: (value: number) => string;
  showLimit: (value: number) => string;
}): React.JSX.Element | null {
  const { trans } = useUi();
  const samples = useModel().usage;
  const last = samples.at(-1);
  if (!last) {
    return null;
  }
  const limit = props.limit(last);
  const value = props.of(last);
  const close = limit !== null && value > limit * 0.9;
  return (
    <div className={`tsr-meter${close ? ' tsr-mod-warning' : ''}`}>
      <span>{props.label}</span>
      <span className="tsr-tabular">
        {limit === null ? props.show(value) : trans.__('%1 of %2', props.show(value), props.showLimit(limit))}
      </span>
      <Sparkline values={samples.map(props.of)} limit={limit} />
    </div>
  );
}

function Cost(): React.JSX.Element {
  const { trans, format } = useUi();
  const model = useModel();
  const { spending } = model;
  const currency = spending?.today.currency ?? model.me?.currency ?? 'CNY';
  const rate = totalRate(
    spending?.today,
    activeOf(model).map(task => task.cost)
  );
  const now = useNow(rate > 0);
  const ticking = (sum: Accrual): string =>
    format.money(accrued(sum, now), currency, sum.nano_per_hour > 0 ? 4 : 2);
  return (
    <section aria-labelledby="tsr-compute-cost">
      <div className="tsr-section-head">
        <h3 id="tsr-compute-cost">{trans.__('Cost')}</h3>
        <ServiceLink path="costs">{trans.__('Details')}</ServiceLink>
      </div>
      <dl className="tsr-costs">
        <dt>{trans.__('Today')}</dt>
        <dd className="tsr-figure">{spending ? ticking(spending.today) : '—'}</dd>
        <dt>{trans.__('This month')}</dt>
        <dd>{spending ? ticking(spending.month) : '—'}</dd>
        <dt>{trans.__('Now')}</dt>
        <dd>{format.rate(rate, currency)}</dd>
      </dl>
    </section>
  );
}

/** What the tenant uses of its limits, and what of that is the person's own. */
function Quota(props: { queue: Queue }): React.JSX.Element {
  const { trans, format } = useUi();
  const model = useModel();
  const held = activeOf(model).filter(task => task.phase !== 'QUEUED');
  const lines = props.queue.quota.filter(line => !line.dimension.startsWith('card_memory/'));
  const id = `tsr-compute-quota-${props.queue.id}`;
  return (
    <section aria-labelledby={id}>
      <div className="tsr-section-head">
        <h3 id={id}>{trans.__('Quota of %1', props.queue.tenant)}</h3>
      </div>
      {lines.length === 0 ? <p className="tsr-hint">{trans.__('Nothing is in use.')}</p> : null}
      {lines.map(line => {
        const name = format.dimension(line.dimension);
        const { used, limit } = line;
        const own = held.reduce((sum, task) => sum + (task.resources[line.dimension] ?? 0), 0);
        const amount = (value: number): string => format.amount(line.dimension, value);
        // Without a limit what there is at all is the measure.
        const whole =
          limit ?? model.clusters.reduce((sum, cluster) => sum + (cluster.total[line.dimension] ?? 0), 0);
        const tone = limit === null || used <= limit * 0.85 ? 'normal' : used > limit ? 'over' : 'warning';
        return (
          <div key={line.dimension} className="tsr-quota">
            <span>{name}</span>
            <span className="tsr-tabular">
              {limit === null ? amount(used) : trans.__('%1 of %2', amount(used), amount(limit))}
            </span>
            <Bar label={name} value={used} part={own} max={whole} tone={tone} />
            <span className="tsr-note">
              <span className="tsr-key" aria-hidden="true" /> {trans.__('Mine: %1', amount(own))}
              {limit === null ? ` · ${trans.__('no limit')}` : ''}
            </span>
          </div>
        );
      })}
    </section>
  );
}

function Jobs(): React.JSX.Element {
  const { trans, format, commands } = useUi();
  const model = useModel();
  const jobs = activeOf(model).filter(task => task.kind !== 'workspace');
  const now = useNow(jobs.length > 0);
  return (
    <section aria-labelledby="tsr-compute-jobs">
      <div className="tsr-section-head">
        <h3 id="tsr-compute-jobs">{trans.__('Active jobs')}</h3>
        <button
          type="button"
          className="tsr-link"
          onClick={() => {
            void commands.execute(CommandIds.openJobs);
          }}
        >
          {trans.__('All jobs')}
        </button>
      </div>
      {jobs.length === 0 ? <p className="tsr-hint">{trans.__('Nothing runs.')}</p> : null}
      <ul className="tsr-active">
        {jobs.map(task => {
          const total = task.progress.cells_total ?? 0;
          return (
            <li key={task.id}>
              <PhaseIcon phase={task.phase} />
              <button
                type="button"
                className="tsr-link"
                onClick={() => {
                  void commands.execute(CommandIds.openJob, { id: task.id, name: task.name });
                }}
              >
                {task.name}
              </button>
              <span className="tsr-note tsr-tabular">
                {task.started_at ? format.clock(elapsedSeconds(task, now)) : ''}
              </span>
              <span className="tsr-note">
                {phaseLabel(task.phase, trans)}
                {total > 0 ? ` · ${trans.__('%1 of %2 cells', task.progress.cells_done, total)}` : ''}
              </span>
            </li>
          );
        })}
      </ul>
    </section>
  );
}

export function StatusChip(): React.JSX.Element {
  const { trans, format, commands } = useUi();
  const model = useModel();
  const mine = activeOf(model);
  const slice = model.local?.slice;
  const usage = model.usage.at(-1);
  const jobs = mine.filter(task => task.kind !== 'workspace').length;
  const rate = totalRate(
    model.spending?.today,
    mine.map(task => task.cost)
  );
  const since = format.time(new Date(model.since).toISOString());
  const text =
    model.connection === 'loading'
      ? trans.__('Connecting…')
      : model.connection === 'offline'
        ? trans.__('Offline since %1', since)
        : [
            slice ? `${slice.card_class} ${format.cards(slice.centi_cards)}` : '',
            usage
              ? usage.memory_limit === null
                ? format.mebibytes(usage.memory_mib)
                : format.ofMebibytes(usage.memory_mib, usage.memory_limit)
              : '',
            format.rate(rate, model.me?.currency ?? 'CNY'),
            jobs > 0 ? trans._n('%1 job', '%1 jobs', jobs) : ''
          ]
            .filter(Boolean)
            .join(' · ');
  return (
    <button
      type="button"
      className={`tsr-chip-status tsr-mod-${model.connection}`}
      title={trans.__('Open Compute')}
      onClick={() => {
        void commands.execute(CommandIds.showCompute);
      }}
    >
      <tesseraIcon.react tag="span" height="14px" width="14px" aria-hidden="true" />
      {text}
    </button>
  );
}
