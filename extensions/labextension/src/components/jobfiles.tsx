/** What a job gave back: to open in the workspace, or to download. */
import type { Contents } from '@jupyterlab/services';
import * as React from 'react';
import { placedFolder } from '../draft';
import { FINAL_PHASES, type TaskDetail } from '../types';
import { useLoad, useModel, useUi } from './context';
import { Loading, ProblemNote } from './controls';

/** Paths in the workspace of what was placed there, by path within the job's folder. */
async function findPlaced(contents: Contents.IManager, folder: string): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const walk = async (path: string): Promise<void> => {
    const model = await contents.get(path, { content: true });
    for (const item of model.content as Contents.IModel[]) {
      if (item.type === 'directory') {
        await walk(item.path);
      } else {
        found.set(item.path.slice(folder.length + 1), item.path);
      }
    }
  };
  try {
    await walk(folder);
  } catch {
    // Nothing has been placed yet, or the person has moved it away.
  }
  return found;
}

export function JobFiles(props: {
  detail: TaskDetail;
  contents: Contents.IManager;
  openFile: (path: string) => void;
}): React.JSX.Element {
  const { trans, format } = useUi();
  const { client, local } = useModel();
  const { detail, contents } = props;
  const { id, version } = detail;
  const folder = placedFolder(detail);
  const [error, setError] = React.useState<unknown>(null);
  const [busy, setBusy] = React.useState(false);
  const [count, look] = React.useReducer((n: number) => n + 1, 0);
  const [files, reload] = useLoad(() => client.outputs(id), [client, id, version]);
  const [placed] = useLoad(
    () =>
      folder && FINAL_PHASES.has(detail.phase)
        ? findPlaced(contents, folder)
        : Promise.resolve(new Map<string, string>()),
    [contents, folder, version, count]
  );
  const waits =
    FINAL_PHASES.has(detail.phase) &&
    local?.places_outputs === true &&
    placed.state === 'ready' &&
    placed.value.size === 0;
  React.useEffect(() => {
    // The Lab server places the files of a finished job within seconds.
    const timer = waits ? setInterval(look, 2000) : undefined;
    const end = setTimeout(() => {
      clearInterval(timer);
    }, 60_000);
    return () => {
      clearInterval(timer);
      clearTimeout(end);
    };
  }, [waits]);
  if (files.state !== 'ready') {
    return files.state === 'loading' ? <Loading /> : <ProblemNote error={files.error} onRetry={reload} />;
  }
  const here = placed.state === 'ready' ? placed.value : new Map<string, string>();
  if (files.value.length === 0) {
    return (
      <div className="tsr-empty">
        <p>
          {FINAL_PHASES.has(detail.phase)
            ? trans.__('This job left no files.')
            : trans.__('Files that the job writes appear here when it ends.')}
        </p>
      </div>
    );
  }
  return (
    <div className="tsr-pad">
      {error ? <ProblemNote error={error} /> : null}
      {folder ? (
        <div className="tsr-place">
          <span>
            {here.size > 0 ? trans.__('In your workspace:') : trans.__('Will be placed in:')}{' '}
            <code>{folder}</code>
          </span>
          {here.size === 0 ? (
            <button
              type="button"
              className="tsr-button"
              disabled={busy}
              onClick={() => {
                setBusy(true);
                setError(null);
                client
                  .placeOutputs(id)
                  .then(look, setError)
                  .finally(() => {
                    setBusy(false);
                  });
              }}
            >
              {busy ? trans.__('Placing…') : trans.__('Place now')}
            </button>
          ) : null}
        </div>
      ) : null}
      <table className="tsr-table">
        <thead>
          <tr>
            <th scope="col">{trans.__('File')}</th>
            <th scope="col" className="tsr-numeric">
              {trans.__('Size')}
            </th>
            <th scope="col" className="tsr-numeric">
              <span className="tsr-announce">{trans.__('Actions')}</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {files.value.map(file => {
            const path = here.get(file.path);
            return (
              <tr key={`${file.run_id} ${file.path}`}>
                <td className="tsr-mono">{file.path}</td>
                <td className="tsr-numeric">{format.bytes(file.size)}</td>
                <td className="tsr-numeric tsr-row-actions">
                  {path ? (
                    <button
                      type="button"
                      className="tsr-link"
                      aria-label={trans.__('Open %1', file.path)}
                      onClick={() => {
                        props.openFile(path);
                      }}
                    >
                      {trans.__('Open')}
                    </button>
                  ) : null}
                  <a
                    className="tsr-link"
                    href={client.outputUrl(id, file.sha256)}
                    download={file.path.split('/').pop()}
                    aria-label={trans.__('Download %1', file.path)}
                  >
                    {trans.__('Download')}
                  </a>
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}
