/** *When* it runs and for how long, and where its *output* goes. */
import * as React from 'react';
import { looksLikeCron, toCron, weekdayName, type IRecurrence, type Rhythm } from '../cron';
import { baseName, folderOf } from '../draft';
import { useUi } from './context';
import { Field, Segments, Select } from './controls';
import type { ISectionProps } from './dialogstate';

/** The next full hour but one, as an input holds it: a proposal that lies safely in the future. */
function nextHour(): string {
  const at = new Date();
  at.setHours(at.getHours() + 2, 0, 0, 0);
  const two = (n: number): string => n.toString().padStart(2, '0');
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}T${two(at.getHours())}:00`;
}

export function WhenSection(props: ISectionProps): React.JSX.Element {
  const { trans } = useUi();
  const { draft, change } = props;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const past = draft.when === 'later' && !(Date.parse(draft.startAt) > Date.now());
  return (
    <>
      <Segments
        label={trans.__('Start')}
        value={draft.when}
        options={[
          { value: 'now', label: trans.__('As soon as it fits') },
          { value: 'later', label: trans.__('Not before…') },
          { value: 'again', label: trans.__('Recurring…') }
        ]}
        onChange={when => {
          change(when === 'later' && draft.startAt === '' ? { when, startAt: nextHour() } : { when });
        }}
      />
      {draft.when === 'again' ? <Recurrence {...props} /> : null}
      <div className="tsr-grid">
        {draft.when === 'later' ? (
          <Field
            label={trans.__('Not before')}
            hint={trans.__('Your time zone: %1', zone)}
            error={past ? trans.__('Choose a time to come.') : null}
          >
            {(id, note) => (
              <input
                id={id}
                aria-describedby={note}
                className="tsr-input"
                type="datetime-local"
                value={draft.startAt}
                onChange={event => {
                  change({ startAt: event.target.value });
                }}
              />
            )}
          </Field>
        ) : null}
        <Field label={trans.__('Stop after')} hint={trans.__('Minutes. Empty: the queue’s own limit.')}>
          {(id, note) => (
            <input
              id={id}
              aria-describedby={note}
              className="tsr-input"
              type="number"
              min={1}
              step={1}
              placeholder={trans.__('no limit of its own')}
              value={draft.maxRunSeconds === null ? '' : Math.round(draft.maxRunSeconds / 60)}
              onChange={event => {
                const minutes = Math.round(Number(event.target.value));
                change({ maxRunSeconds: minutes > 0 ? minutes * 60 : null });
              }}
            />
          )}
        </Field>
        <Field label={trans.__('Try again on failure')} hint={trans.__('Times, each charged.')}>
          {(id, note) => (
            <input
              id={id}
              aria-describedby={note}
              className="tsr-input"
              type="number"
              min={0}
              max={20}
              step={1}
              value={draft.retries}
              onChange={event => {
                change({ retries: Math.min(20, Math.max(0, Math.round(Number(event.target.value)))) });
              }}
            />
          )}
        </Field>
      </div>
    </>
  );
}

function Recurrence(props: ISectionProps): React.JSX.Element {
  const { trans, format } = useUi();
  const { draft, change } = props;
  const { recurrence } = draft;
  const set = (part: Partial<IRecurrence>): void => {
    change({ recurrence: { ...recurrence, ...part } });
  };
  const { rhythm } = recurrence;
  const rhythms: { value: Rhythm; label: string }[] = [
    { value: 'hourly', label: trans.__('Every hour') },
    { value: 'daily', label: trans.__('Every day') },
    { value: 'weekdays', label: trans.__('Monday to Friday') },
    { value: 'weekly', label: trans.__('Every week') },
    { value: 'custom', label: trans.__('By a cron expression') }
  ];
  const wrong = rhythm === 'custom' && !looksLikeCron(recurrence.cron);
  const zone = trans.__('Your time zone: %1', draft.timeZone);
  return (
    <div className="tsr-grid">
      <Field label={trans.__('Rhythm')}>
        {id => (
          <Select
            id={id}
            value={rhythm}
            options={rhythms}
            onChange={value => {
              // A person who writes the expression begins with the one chosen so far.
              set(value === 'custom' ? { rhythm: value, cron: toCron(recurrence) } : { rhythm: value });
            }}
          />
        )}
      </Field>
      {rhythm === 'weekly' ? (
        <Field label={trans.__('Day')}>
          {id => (
            <Select
              id={id}
              value={String(recurrence.weekday)}
              options={[1, 2, 3, 4, 5, 6, 0].map(day => ({
                value: String(day),
                label: weekdayName(day, format.locale)
              }))}
              onChange={day => {
                set({ weekday: Number(day) });
              }}
            />
          )}
        </Field>
      ) : null}
      {rhythm === 'custom' ? (
        <Field
          label={trans.__('Cron expression')}
          hint={trans.__('Minute, hour, day, month, weekday. %1', zone)}
          error={wrong ? trans.__('Five fields are needed, such as 0 7 * * 1-5.') : null}
        >
          {(id, note) => (
            <input
              id={id}
              aria-describedby={note}
              className="tsr-input tsr-mono"
              spellCheck={false}
              value={recurrence.cron}
              onChange={event => {
                set({ cron: event.target.value });
              }}
            />
          )}
        </Field>
      ) : (
        <Field label={rhythm === 'hourly' ? trans.__('At the minute of') : trans.__('At')} hint={zone}>
          {(id, note) => (
            <input
              id={id}
              aria-describedby={note}
              className="tsr-input"
              type="time"
              required
              value={recurrence.time}
              onChange={event => {
                if (event.target.value) {
                  set({ time: event.target.value });
                }
              }}
            />
          )}
        </Field>
      )}
      <p className="tsr-hint tsr-mod-wide">
        {trans.__('Each time the files as they are now are run as a new job.')}
      </p>
    </div>
  );
}

export function OutputSection(props: ISectionProps): React.JSX.Element {
  const { trans } = useUi();
  const { draft, change } = props;
  const base = draft.outputFolder ?? folderOf(draft.path);
  const stem = baseName(draft.path).replace(/\.[^.]+$/, '');
  return (
    <Field
      wide
      label={trans.__('Folder for results')}
      hint={trans.__(
        'The executed notebook and new files come to %1, each job in a folder of its own. Nothing newer is overwritten.',
        `${base ? `${base}/` : ''}${stem}-runs/…`
      )}
    >
      {(id, note) => (
        <input
          id={id}
          aria-describedby={note}
          className="tsr-input tsr-mono"
          spellCheck={false}
          placeholder={folderOf(draft.path) || '/'}
          value={draft.outputFolder ?? ''}
          onChange={event => {
            change({ outputFolder: event.target.value.trim() || null });
          }}
        />
      )}
    </Field>
  );
}
