/** What a person has set for the extension, and the texts of the settings editor. */
import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IDraft } from './draft';

/** What is shown after a submit. */
export type AfterSubmit = 'beside' | 'tab' | 'jobs' | 'nothing';

export interface IPreferences {
  /** Milliseconds. */
  pollInterval: number;
  afterSubmit: AfterSubmit;
  notify: boolean;
  /** Choices with which the dialog begins. */
  start: Pick<IDraft, 'include' | 'cpuMillicores' | 'memoryMib'>;
}

export const DEFAULTS: IPreferences = {
  pollInterval: 5000,
  afterSubmit: 'beside',
  notify: true,
  start: { include: 'notebook', cpuMillicores: 1000, memoryMib: 2048 }
};

/** The schema has the defaults and the bounds; the registry refuses what lies outside of them. */
export function preferencesOf(settings: ISettingRegistry.ISettings): IPreferences {
  const value = (name: string): unknown => settings.get(name).composite;
  return {
    pollInterval: Number(value('pollInterval')) * 1000,
    afterSubmit: value('afterSubmit') as AfterSubmit,
    notify: value('notify') === true,
    start: {
      include: value('include') === 'folder' ? 'folder' : 'notebook',
      cpuMillicores: Math.round(Number(value('cpu')) * 1000),
      memoryMib: Math.round(Number(value('memory')) * 1024)
    }
  };
}

interface IText {
  title: string;
  description?: string;
  /** Names of the values of a choice, in the schema's order. */
  values?: string[];
}

/** Lab translates the schemas of its own extensions only. */
export function translateSchema(
  schema: ISettingRegistry.ISchema,
  trans: TranslationBundle
): ISettingRegistry.ISchema {
  const texts: Record<string, IText> = {
    pollInterval: {
      title: trans.__('Seconds between updates'),
      description: trans.__('Used only while live events do not arrive.')
    },
    afterSubmit: {
      title: trans.__('After a submit'),
      description: trans.__('What is shown when a job has been submitted.'),
      values: [
        trans.__('The job beside the file'),
        trans.__('The job in a tab'),
        trans.__('The list of jobs'),
        trans.__('Nothing')
      ]
    },
    notify: {
      title: trans.__('Tell when a job ends'),
      description: trans.__('By a notification in the corner of the window.')
    },
    include: {
      title: trans.__('Files that travel with a job'),
      description: trans.__('With what the dialog begins.'),
      values: [trans.__('Only the file'), trans.__('Its folder')]
    },
    cpu: { title: trans.__('Cores of a job'), description: trans.__('With what the dialog begins.') },
    memory: {
      title: trans.__('Memory of a job in GiB'),
      description: trans.__('With what the dialog begins.')
    }
  };
  const properties = Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const { values, ...text } = texts[name] ?? {};
    const choices = property.oneOf as { const: string }[] | undefined;
    const oneOf = choices?.map((choice, index) => ({ ...choice, title: values?.[index] ?? choice.const }));
    return [name, { ...property, ...text, ...(oneOf ? { oneOf } : {}) }] as const;
  });
  return {
    ...schema,
    description: trans.__('Jobs, quotas and costs.'),
    properties: Object.fromEntries(properties)
  };
}
