/** Choice of files, and what the snapshot of them amounts to. */
import type { Contents } from '@jupyterlab/services';
import * as React from 'react';
import type { ISnapshotPreview, Include } from '../types';
import { useModel, useUi } from './context';
import { Bar, ProblemNote } from './controls';
import { ServiceProblem } from '../problem';

export function SnapshotNote(props: { path: string; include: Include }): React.JSX.Element {
  const { trans, format } = useUi();
  const { client } = useModel();
  const [preview, setPreview] = React.useState<ISnapshotPreview | null>(null);
  const [error, setError] = React.useState<unknown>(null);
  const key = JSON.stringify([props.path, props.include]);
  React.useEffect(() => {
    const abort = new AbortController();
    const timer = setTimeout(() => {
      client.snapshotPreview(props.path, props.include, abort.signal).then(
        value => {
          setPreview(value);
          setError(null);
        },
        (reason: unknown) => {
          if (!abort.signal.aborted) {
            setError(reason);
          }
        }
      );
    }, 200);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
    // `key` holds path and include.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [client, key]);
  if (error) {
    return <ProblemNote error={error} />;
  }
  if (!preview) {
    return <div className="tsr-note">{trans.__('Looking at the files…')}</div>;
  }
  if (preview.refused) {
    return <ProblemNote error={new ServiceProblem(preview.refused, preview.refused.status ?? 413)} />;
  }
  const share = preview.limit_bytes > 0 ? preview.total_bytes / preview.limit_bytes : 0;
  return (
    <div className="tsr-note tsr-snapshot">
      <span>
        {trans._n(
          '%1 file, %2 of at most %3',
          '%1 files, %2 of at most %3',
          preview.files.length,
          format.bytes(preview.total_bytes),
          format.bytes(preview.limit_bytes)
        )}
      </span>
      {share > 0.02 ? (
        <Bar
          label={trans.__('Size of the snapshot')}
          value={preview.total_bytes}
          max={preview.limit_bytes}
          tone={share > 0.8 ? 'warning' : 'normal'}
        />
      ) : null}
    </div>
  );
}

interface IPickerProps {
  root: string;
  entry: string;
  chosen: string[];
  contents: Contents.IManager;
  onChange: (paths: string[]) => void;
}

/** A tree of the folder with check boxes; folders are read when they are opened. */
export function FilePicker(props: IPickerProps): React.JSX.Element {
  const { trans } = useUi();
  return (
    <div className="tsr-picker" role="group" aria-label={trans.__('Files to take along')}>
      <Folder {...props} path={props.root} />
    </div>
  );
}

function Folder(props: IPickerProps & { path: string }): React.JSX.Element {
  const { trans } = useUi();
  const { contents, path } = props;
  const [items, setItems] = React.useState<Contents.IModel[] | null>(null);
  const [failed, setFailed] = React.useState(false);
  React.useEffect(() => {
    contents.get(path, { content: true }).then(
      model => {
        const list = model.content as Contents.IModel[];
        setItems(
          [...list].sort(
            (a, b) =>
              Number(b.type === 'directory') - Number(a.type === 'directory') || a.name.localeCompare(b.name)
          )
        );
      },
      () => {
        setFailed(true);
      }
    );
  }, [contents, path]);
  if (failed) {
    return <div className="tsr-note">{trans.__('This folder cannot be read.')}</div>;
  }
  if (!items) {
    return <div className="tsr-note">{trans.__('Looking at the files…')}</div>;
  }
  return (
    <ul>
      {items.map(item =>
        item.type === 'directory' ? (
          <Branch key={item.path} {...props} path={item.path} name={item.name} />
        ) : (
          <li key={item.path}>
            <label>
              <input
                type="checkbox"
                checked={props.chosen.includes(item.path)}
                disabled={item.path === props.entry}
                onChange={event => {
                  props.onChange(
                    event.target.checked
                      ? [...props.chosen, item.path]
                      : props.chosen.filter(other => other !== item.path)
                  );
                }}
              />
              {item.name}
            </label>
          </li>
        )
      )}
    </ul>
  );
}

function Branch(props: IPickerProps & { path: string; name: string }): React.JSX.Element {
  const [open, setOpen] = React.useState(false);
  return (
    <li>
      <button
        type="button"
        className="tsr-link"
        aria-expanded={open}
        onClick={() => {
          setOpen(!open);
        }}
      >
        {open ? '▾' : '▸'} {props.name}
      </button>
      {open ? <Folder {...props} /> : null}
    </li>
  );
}
