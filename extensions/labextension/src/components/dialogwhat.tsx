/** *What* runs: name, environment, parameters, and the files that travel. */
import * as React from 'react';
import {
  baseName,
  DEFAULT_PORT,
  folderOf,
  HIGHEST_PORT,
  isPort,
  kindOf,
  LOWEST_PORT,
  serviceObstacle
} from '../draft';
import {
  inputKind,
  inputText,
  readAssignments,
  readParameter,
  sameJson,
  writeAssignments
} from '../parameters';
import type { INotebookParameter, Json, TaskKind } from '../types';
import { useUi } from './context';
import { Field, Segments, Select } from './controls';
import { SnapshotNote, FilePicker } from './dialogsnapshot';
import type { ISectionProps } from './dialogstate';

export function WhatSection(props: ISectionProps & { onValid: (valid: boolean) => void }): React.JSX.Element {
  const { trans } = useUi();
  const { draft, change, offers } = props;
  const environment = offers.environments.find(item => item.name === draft.environment);
  const include = Array.isArray(draft.include) ? 'files' : draft.include;
  const kernels = [...new Set([...(draft.kernel ? [draft.kernel] : []), ...(environment?.kernels ?? [])])];
  const folder = folderOf(draft.path);
  return (
    <>
      <div className="tsr-grid">
        <Field label={trans.__('Name')} error={draft.name.trim() ? null : trans.__('Give the job a name.')}>
          {(id, note) => (
            <input
              id={id}
              aria-describedby={note}
              className="tsr-input"
              maxLength={120}
              value={draft.name}
              onChange={event => {
                change({ name: event.target.value });
              }}
            />
          )}
        </Field>
        <Field label={trans.__('Environment')} hint={environment?.description}>
          {id => (
            <Select
              id={id}
              value={draft.environment}
              options={offers.environments.map(item => ({ value: item.name, label: item.title }))}
              onChange={name => {
                change({ environment: name });
              }}
            />
          )}
        </Field>
        {kernels.length > 1 ? (
          <Field label={trans.__('Kernel')}>
            {id => (
              <Select
                id={id}
                value={draft.kernel ?? ''}
                options={kernels.map(name => ({ value: name, label: name }))}
                onChange={kernel => {
                  change({ kernel });
                }}
              />
            )}
          </Field>
        ) : null}
      </div>
      <KindChoice {...props} />
      {kindOf(draft.path) === 'notebook' ? (
        <Parameters
          given={draft.parameters}
          declared={offers.notebook?.parameters ?? []}
          onChange={parameters => {
            change({ parameters });
          }}
          onValid={props.onValid}
        />
      ) : (
        <ScriptParameters
          given={draft.parameters}
          onChange={parameters => {
            change({ parameters });
          }}
          onValid={props.onValid}
        />
      )}
      <div className="tsr-field tsr-mod-wide">
        <span className="tsr-label">{trans.__('Files that travel with the job')}</span>
        <Segments
          label={trans.__('Files that travel with the job')}
          value={include}
          options={[
            { value: 'notebook', label: trans.__('Only %1', baseName(draft.path)) },
            { value: 'folder', label: folder ? trans.__('Its folder') : trans.__('The whole top folder') },
            { value: 'files', label: trans.__('Chosen files') }
          ]}
          onChange={kind => {
            change({ include: kind === 'files' ? [draft.path] : kind });
          }}
        />
        {Array.isArray(draft.include) ? (
          <FilePicker
            root={folder}
            entry={draft.path}
            chosen={draft.include}
            contents={props.contents}
            onChange={paths => {
              change({ include: paths });
            }}
          />
        ) : null}
        <SnapshotNote path={draft.path} include={draft.include} />
      </div>
    </>
  );
}

/** Whether the file runs to its end, or is kept running and reached at a port. */
function KindChoice(props: ISectionProps): React.JSX.Element {
  const { trans } = useUi();
  const { draft, change, offers } = props;
  const obstacle = serviceObstacle(draft, offers.clusters);
  const why = {
    notebook: trans.__('A service runs a script, such as serve.py.'),
    nowhere: trans.__('No cluster you may use keeps a service running.'),
    elsewhere: trans.__('The chosen cluster keeps no service running.')
  };
  const service = draft.kind === 'service';
  const plain = service ? (kindOf(draft.path) ?? 'script') : draft.kind;
  const labels: Partial<Record<TaskKind, string>> = {
    notebook: trans.__('Notebook'),
    script: trans.__('Script'),
    training: trans.__('Training'),
    finetune: trans.__('Fine-tuning')
  };
  const hint = obstacle ? why[obstacle] : service ? trans.__('It runs until it is stopped.') : null;
  return (
    <div className="tsr-grid">
      <div className="tsr-field">
        <span className="tsr-label">{trans.__('Kind')}</span>
        <Segments
          label={trans.__('Kind')}
          value={draft.kind}
          options={[
            { value: plain, label: labels[plain] ?? plain },
            {
              value: 'service',
              label: trans.__('Service'),
              disabled: obstacle !== null && !service,
              title: obstacle ? why[obstacle] : ''
            }
          ]}
          onChange={kind => {
            change({ kind });
          }}
        />
        {hint ? <div className="tsr-note">{hint}</div> : null}
      </div>
      {service ? (
        <PortField
          port={draft.port}
          onPort={port => {
            change({ port });
          }}
        />
      ) : null}
    </div>
  );
}

function PortField(props: { port: number | null; onPort: (port: number | null) => void }): React.JSX.Element {
  const { trans } = useUi();
  const { port } = props;
  return (
    <Field
      label={trans.__('Port')}
      hint={trans.__(
        'The program listens there; it is told as TESSERA_PORT. The address is on the page of the job.'
      )}
      error={
        port === null || isPort(port)
          ? null
          : trans.__('A whole number from %1 to %2 is needed.', LOWEST_PORT, HIGHEST_PORT)
      }
    >
      {(id, note) => (
        <input
          id={id}
          aria-describedby={note}
          aria-invalid={port !== null && !isPort(port)}
          className="tsr-input"
          type="number"
          min={LOWEST_PORT}
          max={HIGHEST_PORT}
          step={1}
          placeholder={String(DEFAULT_PORT)}
          value={port ?? ''}
          onChange={event => {
            const raw = event.target.value;
            props.onPort(raw === '' ? null : Number(raw));
          }}
        />
      )}
    </Field>
  );
}

/** What a script gets on its command line: it declares nothing that could be read. */
function ScriptParameters(props: {
  given: Record<string, Json>;
  onChange: (parameters: Record<string, Json>) => void;
  onValid: (valid: boolean) => void;
}): React.JSX.Element {
  const { trans } = useUi();
  const [text, setText] = React.useState(() => writeAssignments(props.given));
  const { wrong } = readAssignments(text);
  return (
    <Field
      wide
      label={trans.__('Parameters')}
      hint={trans.__('One name=value on each line; the script gets them as --name=value.')}
      error={wrong === null ? null : trans.__('This is no name=value: %1', wrong)}
    >
      {(id, note) => (
        <textarea
          id={id}
          aria-describedby={note}
          aria-invalid={wrong !== null}
          className="tsr-input tsr-mono"
          rows={3}
          spellCheck={false}
          placeholder="epochs=20"
          value={text}
          onChange={event => {
            const raw = event.target.value;
            setText(raw);
            const read = readAssignments(raw);
            props.onValid(read.wrong === null);
            if (read.wrong === null) {
              props.onChange(read.values);
            }
          }}
        />
      )}
    </Field>
  );
}

function Parameters(props: {
  declared: INotebookParameter[];
  given: Record<string, Json>;
  onChange: (parameters: Record<string, Json>) => void;
  onValid: (valid: boolean) => void;
}): React.JSX.Element {
  const { trans } = useUi();
  const { declared, given, onValid } = props;
  const [wrong, setWrong] = React.useState<ReadonlySet<string>>(new Set());
  React.useEffect(() => {
    onValid(wrong.size === 0);
  }, [wrong, onValid]);
  if (declared.length === 0) {
    return (
      <p className="tsr-hint">
        {trans.__('Tag a cell “parameters” in the notebook, and its assignments can be changed here.')}
      </p>
    );
  }
  return (
    <div className="tsr-field tsr-mod-wide">
      <span className="tsr-label">{trans.__('Parameters')}</span>
      <div className="tsr-parameters">
        {declared.map(parameter => (
          <ParameterRow
            key={parameter.name}
            parameter={parameter}
            value={parameter.name in given ? (given[parameter.name] ?? null) : parameter.default}
            onValue={(value, ok) => {
              setWrong(last => {
                const next = new Set(last);
                if (ok) {
                  next.delete(parameter.name);
                } else {
                  next.add(parameter.name);
                }
                return next;
              });
              if (ok) {
                const next = { ...given, [parameter.name]: value };
                if (sameJson(value, parameter.default)) {
                  Reflect.deleteProperty(next, parameter.name);
                }
                props.onChange(next);
              }
            }}
          />
        ))}
      </div>
    </div>
  );
}

function ParameterRow(props: {
  parameter: INotebookParameter;
  value: Json;
  onValue: (value: Json, ok: boolean) => void;
}): React.JSX.Element {
  const { trans } = useUi();
  const id = React.useId();
  const { parameter, value } = props;
  const kind = inputKind(parameter);
  const [text, setText] = React.useState(() => inputText(kind, value));
  const parsed = readParameter(parameter, text);
  // What is left empty: None, or the default as the notebook computes it.
  const empty =
    parameter.default !== null || parameter.source === undefined || parameter.source === 'None'
      ? trans.__('None')
      : parameter.source;
  const problems = {
    integer: trans.__('A whole number is needed.'),
    number: trans.__('A number is needed.'),
    json: trans.__('A list, dictionary or other value in JSON is needed.')
  };
  const take = (raw: string): void => {
    setText(raw);
    const result = readParameter(parameter, raw);
    props.onValue(result.ok ? result.value : null, result.ok);
  };
  const changed = parsed.ok && !sameJson(parsed.value, parameter.default);
  return (
    <div className={`tsr-parameter${parsed.ok ? '' : ' tsr-mod-error'}${changed ? ' tsr-mod-changed' : ''}`}>
      <label htmlFor={id}>
        <code>{parameter.name}</code>
        <span className="tsr-type">{parameter.type}</span>
      </label>
      {kind === 'boolean' ? (
        <label className="tsr-switch">
          <input
            id={id}
            type="checkbox"
            checked={text === 'true'}
            onChange={event => {
              take(String(event.target.checked));
            }}
          />
          <span>{text === 'true' ? trans.__('yes') : text === '' ? empty : trans.__('no')}</span>
        </label>
      ) : (
        <input
          id={id}
          className="tsr-input"
          aria-invalid={!parsed.ok}
          aria-describedby={`${id}-note`}
          inputMode={kind === 'integer' ? 'numeric' : kind === 'number' ? 'decimal' : undefined}
          spellCheck={false}
          placeholder={parameter.nullable || parameter.default === null ? empty : undefined}
          value={text}
          onChange={event => {
            take(event.target.value);
          }}
        />
      )}
      <div className="tsr-note" id={`${id}-note`}>
        {parsed.ok ? parameter.help : problems[parsed.problem]}
      </div>
      {changed || !parsed.ok ? (
        <button
          type="button"
          className="tsr-link"
          onClick={() => {
            take(inputText(kind, parameter.default));
          }}
        >
          {trans.__('Reset to %1', parameter.default === null ? empty : inputText(kind, parameter.default))}
        </button>
      ) : (
        <span />
      )}
    </div>
  );
}
