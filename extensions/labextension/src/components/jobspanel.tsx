/** The *Jobs* panel: a real table of the person's, or everybody's, jobs. */
import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import { CommandIds } from '../tokens';
import { filterTasks, inGroup, sortTasks, type Group, type IFilter, type IOrder } from '../sorting';
import type { Scope, ITesseraModel } from '../tokens';
import { FINAL_PHASES, type Task } from '../types';
import { ConnectionPill, OfflineNotice } from './connection';
import { useModel, useNow, useUi } from './context';
import { Announce, Loading, ProblemNote, Segments, Select } from './controls';
import { JobsTable } from './jobstable';
import { Recurring } from './recurring';

/** Asks, then stops; says how many could not be stopped. */
export async function confirmStop(
  model: ITesseraModel,
  tasks: Task[],
  trans: TranslationBundle
): Promise<void> {
  const first = tasks[0];
  if (!first) {
    return;
  }
  const answer = await showDialog({
    title: trans._n('Stop “%2”?', 'Stop %1 jobs?', tasks.length, first.name),
    body: tasks.some(task => task.started_at)
      ? trans.__('It gets time to write a checkpoint. What has run so far is charged.')
      : trans.__('It has not started. Nothing is charged.'),
    buttons: [
      Dialog.cancelButton({ label: trans.__('Keep running') }),
      Dialog.warnButton({ label: trans._n('Stop job', 'Stop jobs', tasks.length) })
    ]
  });
  if (!answer.button.accept) {
    return;
  }
  const results = await Promise.allSettled(tasks.map(task => model.stop(task.id)));
  const failed = results.filter(result => result.status === 'rejected');
  if (failed.length > 0) {
    throw failed[0]?.reason;
  }
}

export function JobsPanel(): React.JSX.Element {
  const { trans, format, commands } = useUi();
  const model = useModel();
  const [filter, setFilter] = React.useState<IFilter>({ group: 'all', text: '', cluster: null });
  const [recurring, setRecurring] = React.useState(false);
  const [order, setOrder] = React.useState<IOrder>({ column: 'created', direction: 'descending' });
  const [selected, setSelected] = React.useState<ReadonlySet<string>>(new Set());
  const [error, setError] = React.useState<unknown>(null);
  const active = model.tasks.filter(task => !FINAL_PHASES.has(task.phase));
  const now = useNow(active.length > 0);
  const jobs = model.tasks.filter(task => task.kind !== 'workspace');
  const rows = sortTasks(filterTasks(jobs, filter), order, now, format.locale);
  const count = (group: Group): number => jobs.filter(task => inGroup(task.phase, group)).length;
  const stoppable = rows.filter(
    task => selected.has(task.id) && !FINAL_PHASES.has(task.phase) && !task.cancel_requested
  );
  const clusters = [
    ...new Set(jobs.map(task => task.cluster).filter(name => typeof name === 'string'))
  ].sort();
  const groups: { value: Group | 'recurring'; label: string }[] = [
    { value: 'all', label: trans.__('All %1', count('all')) },
    { value: 'active', label: trans.__('Active %1', count('active')) },
    { value: 'succeeded', label: trans.__('Succeeded %1', count('succeeded')) },
    { value: 'failed', label: trans.__('Failed or stopped %1', count('failed')) },
    { value: 'recurring', label: trans.__('Recurring') }
  ];
  const fail = (reason: unknown): void => {
    setError(reason);
  };
  return (
    <div className="tsr-panel">
      <OfflineNotice />
      <header className="tsr-panel-head">
        <h1>{trans.__('Jobs')}</h1>
        <ConnectionPill />
        <span className="tsr-gap" />
        {stoppable.length > 0 ? (
          <button
            type="button"
            className="tsr-button tsr-mod-warn"
            onClick={() => {
              confirmStop(model, stoppable, trans).then(() => {
                setSelected(new Set());
              }, fail);
            }}
          >
            {trans._n('Stop %1 job', 'Stop %1 jobs', stoppable.length)}
          </button>
        ) : null}
        <button
          type="button"
          className="tsr-button tsr-mod-accept"
          onClick={() => {
            void commands.execute(CommandIds.run, { pick: true });
          }}
        >
          {trans.__('Run as job')}
        </button>
      </header>
      <div className="tsr-toolbar" role="search" aria-label={trans.__('Filter jobs')}>
        <Segments
          label={trans.__('State')}
          value={recurring ? 'recurring' : filter.group}
          options={groups}
          onChange={group => {
            setRecurring(group === 'recurring');
            if (group !== 'recurring') {
              setFilter({ ...filter, group });
            }
          }}
        />
        {recurring ? null : (
          <>
            <span className="tsr-gap" />
            <Select<Scope>
              label={trans.__('Whose jobs')}
              value={model.scope}
              options={[
                { value: 'mine', label: trans.__('My jobs') },
                { value: 'all', label: trans.__('All I may see') }
              ]}
              onChange={scope => {
                model.scope = scope;
              }}
            />
            {clusters.length > 1 ? (
              <Select
                label={trans.__('Cluster')}
                value={filter.cluster ?? ''}
                options={[
                  { value: '', label: trans.__('All clusters') },
                  ...clusters.map(name => ({ value: name, label: name }))
                ]}
                onChange={cluster => {
                  setFilter({ ...filter, cluster: cluster || null });
                }}
              />
            ) : null}
            <input
              type="search"
              className="tsr-input tsr-search"
              aria-label={trans.__('Search jobs')}
              placeholder={trans.__('Search name, file, owner, queue')}
              value={filter.text}
              onChange={event => {
                setFilter({ ...filter, text: event.target.value });
              }}
            />
          </>
        )}
      </div>
      {error ? <ProblemNote error={error} /> : null}
      <div className="tsr-scroll">
        {recurring ? (
          <Recurring />
        ) : model.connection === 'loading' && jobs.length === 0 ? (
          <Loading rows={6} />
        ) : jobs.length === 0 ? (
          model.connection === 'offline' ? null : (
            <EmptyJobs />
          )
        ) : rows.length === 0 ? (
          <div className="tsr-empty">
            <h2>{trans.__('No job matches')}</h2>
            <button
              type="button"
              className="tsr-button"
              onClick={() => {
                setFilter({ group: 'all', text: '', cluster: null });
              }}
            >
              {trans.__('Clear the filter')}
            </button>
          </div>
        ) : (
          <JobsTable
            rows={rows}
            now={now}
            order={order}
            selected={selected}
            showOwner={model.scope === 'all'}
            onOrder={setOrder}
            onSelect={setSelected}
          />
        )}
        {model.hasMore && !recurring ? (
          <button
            type="button"
            className="tsr-button tsr-more"
            onClick={() => {
              model.loadMore().catch(fail);
            }}
          >
            {trans.__('Show older jobs')}
          </button>
        ) : null}
      </div>
      <Announce text={trans._n('%1 job active', '%1 jobs active', count('active'))} />
    </div>
  );
}

function EmptyJobs(): React.JSX.Element {
  const { trans, commands } = useUi();
  return (
    <div className="tsr-empty">
      <svg viewBox="0 0 96 64" width="96" height="64" aria-hidden="true">
        <rect x="2" y="8" width="40" height="48" rx="4" className="tsr-art-line" />
        <path d="M11 20h22M11 29h22M11 38h14" className="tsr-art-line" />
        <path d="M50 32h14m-5-5l5 5-5 5" className="tsr-art-line" />
        <rect x="71" y="12" width="18" height="18" rx="3" className="tsr-art-fill" />
        <rect x="71" y="34" width="18" height="18" rx="3" className="tsr-art-line" />
      </svg>
      <h2>{trans.__('No jobs yet')}</h2>
      <p>
        {trans.__(
          'Open a notebook and press “Run as job”. It runs on a cluster while you go on, even after you close the browser.'
        )}
      </p>
      <button
        type="button"
        className="tsr-button"
        onClick={() => {
          void commands.execute(CommandIds.run, { pick: true });
        }}
      >
        {trans.__('Choose a file to run')}
      </button>
    </div>
  );
}
