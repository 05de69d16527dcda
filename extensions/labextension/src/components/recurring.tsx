/** Jobs that come again and again: when next, stop for a while, remove. */
import { Dialog, showDialog } from '@jupyterlab/apputils';
import * as React from 'react';
import { describeCron } from '../cron';
import { CommandIds } from '../tokens';
import type { RecurringTask } from '../types';
import { useLoad, useModel, useUi } from './context';
import { Loading, ProblemNote, Time } from './controls';

const LOOK_MS = 15_000;

export function Recurring(): React.JSX.Element {
  const { trans, format, commands } = useUi();
  const { client, tasks } = useModel();
  const [error, setError] = React.useState<unknown>(null);
  const [count, look] = React.useReducer((n: number) => n + 1, 0);
  // A new job may be one that was due.
  const [list, reload] = useLoad(() => client.recurring(), [client, count, tasks.length]);
  React.useEffect(() => {
    const timer = setInterval(() => {
      if (!document.hidden) {
        look();
      }
    }, LOOK_MS);
    return () => {
      clearInterval(timer);
    };
  }, []);
  if (list.state !== 'ready') {
    return list.state === 'loading' ? (
      <Loading rows={4} />
    ) : (
      <ProblemNote error={list.error} onRetry={reload} />
    );
  }
  if (list.value.length === 0) {
    return (
      <div className="tsr-empty">
        <h2>{trans.__('No recurring jobs')}</h2>
        <p>
          {trans.__(
            'Choose “Recurring” under “When” in the dialog, and a job is submitted at the times you name.'
          )}
        </p>
      </div>
    );
  }
  const act = (done: Promise<unknown>): void => {
    setError(null);
    done.then(look, setError);
  };
  const remove = async (item: RecurringTask): Promise<void> => {
    const answer = await showDialog({
      title: trans.__('Remove “%1”?', item.spec.name),
      body: trans.__('It is not submitted again. Jobs that it has submitted stay.'),
      buttons: [
        Dialog.cancelButton({ label: trans.__('Keep') }),
        Dialog.warnButton({ label: trans.__('Remove') })
      ]
    });
    if (answer.button.accept) {
      await client.removeRecurring(item.id);
    }
  };
  return (
    <>
      {error ? <ProblemNote error={error} /> : null}
      <table className="tsr-table">
        <caption className="tsr-announce">{trans.__('Recurring jobs')}</caption>
        <thead>
          <tr>
            <th scope="col">{trans.__('Name')}</th>
            <th scope="col">{trans.__('Rhythm')}</th>
            <th scope="col">{trans.__('Next run')}</th>
            <th scope="col">{trans.__('Last job')}</th>
            <th scope="col" className="tsr-numeric">
              <span className="tsr-announce">{trans.__('Actions')}</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {list.value.map(item => {
            const last = item.last_task_id;
            return (
              <tr key={item.id}>
                <td>
                  <strong>{item.spec.name}</strong>
                  <span className="tsr-sub">{item.spec.entry}</span>
                </td>
                <td>
                  {describeCron(item.cron, trans, format.locale)}
                  <span className="tsr-sub">{item.time_zone}</span>
                </td>
                <td>
                  {item.next_at ? (
                    <Time iso={item.next_at} />
                  ) : (
                    <span className="tsr-faint">{trans.__('paused')}</span>
                  )}
                </td>
                <td>
                  {last ? (
                    <button
                      type="button"
                      className="tsr-link"
                      onClick={() => {
                        void commands.execute(CommandIds.openJob, { id: last, name: item.spec.name });
                      }}
                    >
                      {trans.__('Open')}
                    </button>
                  ) : (
                    <span className="tsr-faint">{trans.__('none yet')}</span>
                  )}
                </td>
                <td className="tsr-numeric tsr-row-actions">
                  <button
                    type="button"
                    className="tsr-link"
                    onClick={() => {
                      act(client.setRecurring(item.id, !item.enabled));
                    }}
                  >
                    {item.enabled ? trans.__('Pause') : trans.__('Resume')}
                  </button>
                  <button
                    type="button"
                    className="tsr-link"
                    onClick={() => {
                      act(remove(item));
                    }}
                  >
                    {trans.__('Remove')}
                  </button>
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </>
  );
}
