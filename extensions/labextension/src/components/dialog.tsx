/** The *Run as job* dialog. */
import type { Contents } from '@jupyterlab/services';
import { ReactWidget } from '@jupyterlab/ui-components';
import { Widget } from '@lumino/widgets';
import * as React from 'react';
import { looksLikeCron, toCron } from '../cron';
import { askedFor, isPort, kindOf, toRequest, type IDraft } from '../draft';
import type { Json, RecurringTask, Task } from '../types';
import { compact, toYaml } from '../yaml';
import { UiProvider, useLoad, useModel, useUi, type IUi } from './context';
import { CodeBlock, Loading, ProblemNote } from './controls';
import { DataSection } from './dialogdata';
import { Footer } from './dialogfooter';
import { ResourcesSection } from './dialogresources';
import { useEstimate, useOffers, useSubmit } from './dialogstate';
import { WhatSection } from './dialogwhat';
import { OutputSection, WhenSection } from './dialogwhen';
import { WhereSection } from './dialogwhere';

interface IDialogProps {
  initial: IDraft;
  contents: Contents.IManager;
  onClose: () => void;
  onSubmitted: (made: Task | RecurringTask) => void;
}

function RunDialog(props: IDialogProps): React.JSX.Element {
  const { trans } = useUi();
  const { client } = useModel();
  const dialog = React.useRef<HTMLDialogElement>(null);
  const title = React.useId();
  const [draft, setDraft] = React.useState(props.initial);
  const [parametersValid, setParametersValid] = React.useState(true);
  const [previewing, setPreviewing] = React.useState(false);
  const change = React.useCallback((part: Partial<IDraft>) => {
    setDraft(last => ({ ...last, ...part }));
  }, []);
  const { offers, error, reload } = useOffers(draft.path);
  const [datasets, reloadDatasets] = useLoad(client.datasets, [client]);
  const state = useEstimate(draft, offers !== null);
  const { inFlight, error: refused, submit } = useSubmit(draft, props.onSubmitted);
  const refusal = React.useRef<HTMLDivElement>(null);

  React.useEffect(() => {
    const element = dialog.current;
    element?.showModal();
    // Not the first button, which would close the dialog at a press of Enter.
    element?.focus();
    return () => {
      element?.close();
    };
  }, []);
  React.useEffect(() => {
    if (offers) {
      setDraft(last => settle(last, offers.environments, offers.notebook?.kernel ?? null));
    }
  }, [offers]);
  React.useEffect(() => {
    if (refused) {
      refusal.current?.scrollIntoView({ block: 'nearest' });
    }
  }, [refused]);

  const portIsClear = draft.kind !== 'service' || draft.port === null || isPort(draft.port);
  const valid =
    offers !== null && parametersValid && portIsClear && draft.name.trim() !== '' && whenIsClear(draft);
  const ready = valid && !inFlight && state.estimate?.verdict !== 'never';
  const sections = offers ? { draft, change, offers, contents: props.contents } : null;
  return (
    <dialog
      ref={dialog}
      className="tsr-dialog"
      tabIndex={-1}
      aria-labelledby={title}
      onCancel={event => {
        event.preventDefault();
        if (!inFlight) {
          props.onClose();
        }
      }}
      onKeyDown={event => {
        // Lab's shortcuts act on the page behind; none of them is meant here.
        event.stopPropagation();
        if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
          event.preventDefault();
          if (ready) {
            submit();
          }
        }
      }}
    >
      <header className="tsr-dialog-head">
        <div>
          <h2 id={title}>{trans.__('Run as job')}</h2>
          <p className="tsr-path" title={draft.path}>
            {draft.path}
          </p>
        </div>
        <button
          type="button"
          className="tsr-icon-button"
          aria-label={trans.__('Close')}
          disabled={inFlight}
          onClick={props.onClose}
        >
          ✕
        </button>
      </header>
      <div className="tsr-dialog-body">
        {refused ? (
          <div ref={refusal} className="tsr-dialog-refusal">
            <ProblemNote error={refused} />
          </div>
        ) : null}
        {error ? (
          <ProblemNote error={error} onRetry={reload} />
        ) : previewing ? (
          <Preview draft={draft} />
        ) : sections ? (
          <>
            <Section title={trans.__('What')}>
              <WhatSection {...sections} onValid={setParametersValid} />
            </Section>
            <Section title={trans.__('Where')}>
              <WhereSection
                {...sections}
                datasets={datasets}
                fits={state.estimate?.clusters ?? null}
                asked={askedFor(draft)}
              />
            </Section>
            <Section title={trans.__('Data sets')}>
              <DataSection {...sections} datasets={datasets} onRetry={reloadDatasets} />
            </Section>
            <Section title={trans.__('Resources')}>
              <ResourcesSection {...sections} />
            </Section>
            <Section title={trans.__('When')}>
              <WhenSection {...sections} />
            </Section>
            <Section title={trans.__('Output')}>
              <OutputSection {...sections} />
            </Section>
          </>
        ) : (
          <Loading rows={6} />
        )}
      </div>
      <Footer
        state={state}
        waiting={offers === null}
        cron={draft.when === 'again' ? toCron(draft.recurrence) : null}
        inFlight={inFlight}
        ready={ready}
        problem={valid || offers === null ? null : trans.__('Something above needs your attention.')}
        previewing={previewing}
        onPreview={() => {
          setPreviewing(!previewing);
        }}
        onCancel={props.onClose}
        onSubmit={submit}
      />
    </dialog>
  );
}

/** What the service would take, to read or to keep with the notebook. */
function Preview(props: { draft: IDraft }): React.JSX.Element {
  const { trans } = useUi();
  const { client } = useModel();
  const { path, include } = props.draft;
  const request = toRequest(props.draft);
  const [dry, reload] = useLoad(
    () => client.dryRun(path, include, request),
    [client, path, JSON.stringify([include, request])]
  );
  if (dry.state === 'loading') {
    return <Loading rows={6} />;
  }
  if (dry.state === 'failed') {
    return <ProblemNote error={dry.error} onRetry={reload} />;
  }
  return (
    <div className="tsr-pad">
      <p className="tsr-hint">
        {trans.__('The service has checked this specification; nothing has been submitted.')}
      </p>
      <CodeBlock
        label={trans.__('Specification')}
        // The files are those chosen in the form; their hashes are taken at the submit.
        text={toYaml(compact({ ...dry.value.spec, inputs: null } as unknown as Json))}
      />
    </div>
  );
}

function Section(props: { title: string; children: React.ReactNode }): React.JSX.Element {
  const id = React.useId();
  return (
    <section className="tsr-section" aria-labelledby={id}>
      <h3 id={id}>{props.title}</h3>
      <div className="tsr-section-body">{props.children}</div>
    </section>
  );
}

function whenIsClear(draft: IDraft): boolean {
  if (draft.when === 'later') {
    return Date.parse(draft.startAt) > Date.now();
  }
  return draft.when === 'now' || looksLikeCron(toCron(draft.recurrence));
}

/** Replaces what is not on offer by what is. */
function settle(draft: IDraft, environments: { name: string }[], kernel: string | null): IDraft {
  const known = environments.some(environment => environment.name === draft.environment);
  return {
    ...draft,
    environment: known ? draft.environment : (environments[0]?.name ?? draft.environment),
    kernel: kindOf(draft.path) === 'notebook' ? (draft.kernel ?? kernel) : null
  };
}

class RunDialogWidget extends ReactWidget {
  constructor(
    private _ui: IUi,
    private _props: IDialogProps
  ) {
    super();
    this.addClass('tsr-dialog-host');
  }

  protected override render(): React.JSX.Element {
    return (
      <UiProvider value={this._ui}>
        <RunDialog {...this._props} />
      </UiProvider>
    );
  }
}

/** Opens the dialog; resolves with what was submitted, or null when it was closed. The focus returns to the opener. */
export function openRunDialog(
  ui: IUi,
  initial: IDraft,
  contents: Contents.IManager
): Promise<Task | RecurringTask | null> {
  const opener = document.activeElement;
  return new Promise(resolve => {
    const end = (made: Task | RecurringTask | null): void => {
      widget.dispose();
      if (opener instanceof HTMLElement) {
        opener.focus();
      }
      resolve(made);
    };
    const widget = new RunDialogWidget(ui, {
      initial,
      contents,
      onClose: () => {
        end(null);
      },
      onSubmitted: end
    });
    Widget.attach(widget, document.body);
  });
}
