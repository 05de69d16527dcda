/** Times that come again: the five fields of cron, and the choices people make of them. */
import type { TranslationBundle } from '@jupyterlab/translation';

export type Rhythm = 'hourly' | 'daily' | 'weekdays' | 'weekly' | 'custom';

export interface IRecurrence {
  rhythm: Rhythm;
  /** `hh:mm` on the clock of the time zone; of an hourly one only the minutes count. */
  time: string;
  /** 0 Sunday … 6 Saturday, of a weekly one. */
  weekday: number;
  /** Five fields, of a custom one. */
  cron: string;
}

export const EVERY_DAY: IRecurrence = { rhythm: 'daily', time: '07:00', weekday: 1, cron: '0 7 * * 1-5' };

export function toCron(recurrence: IRecurrence): string {
  const [hour = 0, minute = 0] = recurrence.time.split(':').map(Number);
  switch (recurrence.rhythm) {
    case 'hourly':
      return `${minute} * * * *`;
    case 'daily':
      return `${minute} ${hour} * * *`;
    case 'weekdays':
      return `${minute} ${hour} * * 1-5`;
    case 'weekly':
      return `${minute} ${hour} * * ${recurrence.weekday}`;
    case 'custom':
      return recurrence.cron.trim();
  }
}

export function fromCron(cron: string): IRecurrence {
  const custom: IRecurrence = { ...EVERY_DAY, rhythm: 'custom', cron };
  const match = /^(\d{1,2}) (\d{1,2}|\*) \* \* (\*|1-5|[0-7])$/.exec(cron.trim());
  if (!match) {
    return custom;
  }
  const [, minute = '0', hour = '*', day = '*'] = match;
  const two = (text: string): string => text.padStart(2, '0');
  if (hour === '*') {
    return day === '*' ? { ...EVERY_DAY, rhythm: 'hourly', time: `00:${two(minute)}`, cron } : custom;
  }
  const time = `${two(hour)}:${two(minute)}`;
  if (day === '*' || day === '1-5') {
    return { ...EVERY_DAY, rhythm: day === '*' ? 'daily' : 'weekdays', time, cron };
  }
  return { ...EVERY_DAY, rhythm: 'weekly', time, weekday: Number(day) % 7, cron };
}

/** Whether it has the form of an expression; the service knows whether it ever comes. */
export function looksLikeCron(cron: string): boolean {
  return /^(?:[\dA-Za-z*/,?-]+\s+){4}[\dA-Za-z*/,?#-]+$/.test(cron.trim());
}

export function weekdayName(weekday: number, locale: string): string {
  // The first of January 2023 was a Sunday.
  return new Intl.DateTimeFormat(locale, { weekday: 'long' }).format(new Date(2023, 0, 1 + weekday));
}

export function describeCron(cron: string, trans: TranslationBundle, locale: string): string {
  const { rhythm, time, weekday } = fromCron(cron);
  switch (rhythm) {
    case 'hourly':
      return trans.__('Every hour at minute %1', Number(time.slice(3)));
    case 'daily':
      return trans.__('Every day at %1', time);
    case 'weekdays':
      return trans.__('Monday to Friday at %1', time);
    case 'weekly':
      return trans.__('%1 at %2', weekdayName(weekday, locale), time);
    case 'custom':
      return cron;
  }
}
