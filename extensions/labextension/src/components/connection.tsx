/** Whether what is shown is current. */
import * as React from 'react';
import { useModel, useUi } from './context';

export function ConnectionPill(): React.JSX.Element | null {
  const { trans, format } = useUi();
  const model = useModel();
  if (model.connection === 'loading') {
    return null;
  }
  const since = format.time(new Date(model.since).toISOString());
  const text =
    model.connection === 'live'
      ? trans.__('Live')
      : model.connection === 'polling'
        ? trans.__('Updating every few seconds')
        : trans.__('Offline since %1', since);
  return (
    <span className={`tsr-pill tsr-mod-${model.connection}`} role="status">
      <span className="tsr-dot" aria-hidden="true" />
      {text}
    </span>
  );
}

/** Shown above what may be out of date. */
export function OfflineNotice(): React.JSX.Element | null {
  const { trans, format } = useUi();
  const model = useModel();
  if (model.connection !== 'offline') {
    return null;
  }
  const { error } = model;
  const since = format.time(new Date(model.since).toISOString());
  return (
    <div className="tsr-offline" role="alert">
      <span>
        {error?.refusesPerson ? (
          <>
            <strong>{trans.__('Your sign-in has expired.')}</strong>{' '}
            {trans.__('Reload the page to sign in again. Jobs go on meanwhile.')}
          </>
        ) : (
          <>
            <strong>{trans.__('Offline since %1.', since)}</strong>{' '}
            {model.tasks.length > 0
              ? trans.__('Jobs go on; what you see is the last state known.')
              : trans.__('Jobs go on while this window cannot reach the service.')}
          </>
        )}
      </span>
      <button
        type="button"
        className="tsr-button"
        onClick={() => {
          if (error?.refusesPerson) {
            window.location.reload();
            return;
          }
          model.refresh().catch(() => {
            // The notice stays and says so.
          });
        }}
      >
        {error?.refusesPerson ? trans.__('Reload') : trans.__('Try again')}
      </button>
    </div>
  );
}
