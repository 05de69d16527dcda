/** One job: figures, timeline, notebook, output, files, specification and cost. */
import { Clipboard } from '@jupyterlab/apputils';
import type { Contents } from '@jupyterlab/services';
import * as React from 'react';
import { accrued } from '../accrual';
import { elapsedSeconds } from '../sorting';
import { CommandIds } from '../tokens';
import { FINAL_PHASES, type Json, type TaskDetail } from '../types';
import { compact, toYaml } from '../yaml';
import { OfflineNotice } from './connection';
import { useModel, useNow, useUi } from './context';
import { CodeBlock, Loading, ProblemNote } from './controls';
import { useFollow } from './followstate';
import { JobCost } from './jobcost';
import { JobFiles } from './jobfiles';
import { JobUse } from './jobuse';
import { confirmStop } from './jobspanel';
import { ProgressCell } from './jobstable';
import { LogParts } from './logparts';
import { NotebookView, type INotebookParts } from './notebookview';
import { PhaseBadge, reasonText } from './phase';
import { Timeline } from './timeline';

type Tab = 'timeline' | 'notebook' | 'output' | 'files' | 'specification' | 'cost';

export function JobDetail(props: {
  id: string;
  parts: INotebookParts;
  contents: Contents.IManager;
  openFile: (path: string) => void;
}): React.JSX.Element {
  const { trans, format, commands } = useUi();
  const model = useModel();
  const followed = useFollow(props.id);
  const { detail } = followed;
  const [tab, setTab] = React.useState<Tab | null>(null);
  const [error, setError] = React.useState<unknown>(null);
  const now = useNow(detail !== null && !FINAL_PHASES.has(detail.phase));
  if (!detail) {
    return (
      <div className="tsr-panel">
        <OfflineNotice />
        {followed.error ? (
          <ProblemNote error={followed.error} onRetry={followed.reload} />
        ) : (
          <Loading rows={6} />
        )}
      </div>
    );
  }
  const final = FINAL_PHASES.has(detail.phase);
  const shown = tab ?? (detail.kind === 'notebook' ? 'notebook' : 'output');
  const tabs: { value: Tab; label: string }[] = [
    ...(detail.kind === 'notebook' ? [{ value: 'notebook' as const, label: trans.__('Notebook') }] : []),
    { value: 'output', label: trans.__('Output') },
    { value: 'timeline', label: trans.__('Timeline') },
    { value: 'files', label: trans.__('Files') },
    { value: 'specification', label: trans.__('Specification') },
    { value: 'cost', label: trans.__('Cost') }
  ];
  return (
    <div className="tsr-panel">
      <OfflineNotice />
      <header className="tsr-panel-head">
        <h1>{detail.name}</h1>
        <PhaseBadge task={detail} large />
        <span className="tsr-gap" />
        {!final ? (
          <button
            type="button"
            className="tsr-button tsr-mod-warn"
            disabled={detail.cancel_requested}
            onClick={() => {
              confirmStop(model, [detail], trans).catch(setError);
            }}
          >
            {trans.__('Stop')}
          </button>
        ) : (
          <button
            type="button"
            className="tsr-button"
            onClick={() => {
              model.retry(detail.id).then(followed.reload, setError);
            }}
          >
            {trans.__('Run again')}
          </button>
        )}
        <button
          type="button"
          className="tsr-button"
          onClick={() => {
            void commands.execute(CommandIds.clone, { id: detail.id });
          }}
        >
          {trans.__('Clone')}
        </button>
      </header>
      {error ? <ProblemNote error={error} /> : null}
      <Standing detail={detail} />
      <dl className="tsr-figures">
        {detail.kind === 'service' ? (
          <ServiceAddress detail={detail} />
        ) : (
          <div className="tsr-mod-wide">
            <dt>{trans.__('Progress')}</dt>
            <dd>
              <ProgressCell task={detail} plain />
            </dd>
          </div>
        )}
        <div>
          <dt>{trans.__('Elapsed')}</dt>
          <dd className="tsr-figure">{format.clock(elapsedSeconds(detail, now))}</dd>
        </div>
        <div>
          <dt>{trans.__('Cost')}</dt>
          <dd className="tsr-figure">
            {detail.cost ? format.money(accrued(detail.cost, now), detail.cost.currency, 4) : '—'}
          </dd>
        </div>
        <div>
          <dt>{trans.__('Cluster and queue')}</dt>
          <dd>
            {detail.cluster ?? trans.__('not placed')} · {detail.queue}
          </dd>
        </div>
        <div>
          <dt>{trans.__('Resources')}</dt>
          <dd>{format.resources(detail.resources)}</dd>
        </div>
      </dl>
      <Tabs tabs={tabs} value={shown} onChange={setTab} />
      <div className="tsr-scroll" role="tabpanel" aria-label={tabs.find(item => item.value === shown)?.label}>
        {shown === 'timeline' ? <Timeline events={followed.events} detail={detail} /> : null}
        {shown === 'notebook' ? (
          <NotebookView
            // A new run begins with an empty view, not with what the one before left.
            key={detail.run_id}
            id={detail.id}
            version={followed.notebookVersion}
            parts={props.parts}
            current={detail.progress.current_cell ?? null}
            started={typeof detail.started_at === 'string'}
            final={final}
          />
        ) : null}
        {shown === 'output' ? (
          <LogParts
            id={detail.id}
            run={detail.run_id}
            parts={detail.spec.roles?.[0]?.replicas ?? 1}
            log={followed.log}
            version={followed.logVersion}
            final={final}
          />
        ) : null}
        {shown === 'files' ? (
          <JobFiles detail={detail} contents={props.contents} openFile={props.openFile} />
        ) : null}
        {shown === 'specification' ? <Specification detail={detail} /> : null}
        {shown === 'cost' ? (
          <>
            <JobCost detail={detail} />
            <JobUse detail={detail} />
          </>
        ) : null}
      </div>
    </div>
  );
}

function Tabs(props: {
  tabs: { value: Tab; label: string }[];
  value: Tab;
  onChange: (tab: Tab) => void;
}): React.JSX.Element {
  return (
    <div
      className="tsr-tabs"
      role="tablist"
      onKeyDown={event => {
        const by = event.key === 'ArrowRight' ? 1 : event.key === 'ArrowLeft' ? -1 : 0;
        const at = props.tabs.findIndex(tab => tab.value === props.value);
        const next = props.tabs[(at + by + props.tabs.length) % props.tabs.length];
        if (by !== 0 && next) {
          props.onChange(next.value);
          event.currentTarget.querySelector<HTMLElement>(`[data-tab="${next.value}"]`)?.focus();
        }
      }}
    >
      {props.tabs.map(tab => (
        <button
          key={tab.value}
          type="button"
          role="tab"
          data-tab={tab.value}
          aria-selected={tab.value === props.value}
          tabIndex={tab.value === props.value ? 0 : -1}
          onClick={() => {
            props.onChange(tab.value);
          }}
        >
          {tab.label}
        </button>
      ))}
    </div>
  );
}

/** Where a service answers, and whom. */
function ServiceAddress(props: { detail: TaskDetail }): React.JSX.Element {
  const { trans } = useUi();
  const { detail } = props;
  const { address } = detail.progress;
  const [copied, setCopied] = React.useState(false);
  React.useEffect(() => {
    setCopied(false);
  }, [address]);
  return (
    <div className="tsr-mod-wide">
      <dt>{trans.__('Address')}</dt>
      {FINAL_PHASES.has(detail.phase) ? (
        <dd>{trans.__('It answers no more')}</dd>
      ) : address ? (
        <dd>
          <code className="tsr-address">{address}</code>{' '}
          <button
            type="button"
            className="tsr-link"
            onClick={() => {
              Clipboard.copyToSystem(address);
              setCopied(true);
            }}
          >
            {copied ? trans.__('Copied') : trans.__('Copy')}
          </button>
          <div className="tsr-note">
            {detail.phase === 'RUNNING'
              ? trans.__('For jobs of %1 at %2', detail.tenant, detail.cluster ?? '')
              : trans.__('Once it runs, for jobs of %1 at %2', detail.tenant, detail.cluster ?? '')}
          </div>
        </dd>
      ) : (
        <dd>
          <span className="tsr-faint">{trans.__('Known once it is placed')}</span>
        </dd>
      )}
    </div>
  );
}

/** The plain sentence first: why it waits, or how it came to a bad end. */
function Standing(props: { detail: TaskDetail }): React.JSX.Element | null {
  const { trans, format } = useUi();
  const { detail } = props;
  const { phase, position, reasons } = detail;
  if (reasons.length === 0 && !position) {
    return null;
  }
  const bad = phase === 'FAILED' || phase === 'PREEMPTED';
  const eta = position?.eta_seconds_p50;
  const ahead = position?.ahead_tasks ?? 0;
  const where = position
    ? [
        trans.__('Position %1', position.position),
        ahead > 0 ? trans._n('%1 job ahead', '%1 jobs ahead', ahead) : '',
        eta ? trans.__('Starts in %1', format.about(eta)) : ''
      ]
        .filter(Boolean)
        .join(' · ')
    : '';
  return (
    <div className={`tsr-standing${bad ? ' tsr-mod-bad' : ''}`} role="status">
      {reasons.map((reason, index) => (
        <p key={index}>{reasonText(reason)}</p>
      ))}
      {where ? <p className="tsr-note">{where}</p> : null}
    </div>
  );
}

function Specification(props: { detail: TaskDetail }): React.JSX.Element {
  const { trans } = useUi();
  const spec = compact(props.detail.spec as unknown as Json);
  return <CodeBlock label={trans.__('Specification')} text={toYaml(spec)} />;
}
