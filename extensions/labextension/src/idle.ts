/** Says that this workspace is about to be stopped because nothing runs in it, and offers to keep it. */
import { Notification } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { Formatter } from './format';
import { problemOf } from './problem';
import type { ITesseraModel } from './tokens';

export function announceIdleness(model: ITesseraModel, trans: TranslationBundle, format: Formatter): void {
  let stopsAt: string | null = null;
  let shown: string | null = null;
  const keep = async (): Promise<void> => {
    const id = model.local?.workspace_task_id;
    if (id) {
      try {
        await model.client.keepWorkspace(id);
        Notification.success(trans.__('The workspace is kept for an hour.'), { autoClose: 5000 });
      } catch (error) {
        Notification.error(problemOf(error).message);
      }
    }
  };
  model.changed.connect(() => {
    const now = model.usage.at(-1)?.stops_at ?? null;
    if (now === stopsAt) {
      return;
    }
    stopsAt = now;
    if (shown !== null) {
      Notification.dismiss(shown);
      shown = null;
    }
    if (now !== null) {
      const text = trans.__(
        'Nothing runs in this workspace. It stops at %1 unless you use or keep it.',
        format.time(now)
      );
      const action = {
        label: trans.__('Keep for an hour'),
        displayType: 'accent' as const,
        callback: () => {
          void keep();
        }
      };
      shown = Notification.warning(text, { autoClose: false, actions: [action] });
    }
  });
}
