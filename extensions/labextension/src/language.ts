/** Lab in the language of the browser, until the person chooses another one. */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { ISettingRegistry } from '@jupyterlab/settingregistry';

const LANGUAGE_SETTINGS = '@jupyterlab/translation-extension:plugin';

/** Names of the installed language packs, such as `zh_CN`. */
async function packs(settings: ServerConnection.ISettings): Promise<string[]> {
  const url = URLExt.join(settings.baseUrl, 'lab/api/translations');
  const response = await ServerConnection.makeRequest(url, {}, settings);
  const body = (await response.json()) as { data?: Record<string, unknown> };
  return response.ok ? Object.keys(body.data ?? {}) : [];
}

/** The pack for the first language of the browser that Lab speaks; null for English or when there is none. */
export function choosePack(languages: readonly string[], installed: readonly string[]): string | null {
  for (const language of languages) {
    const [base = ''] = language.split('-');
    if (base === 'en') {
      return null;
    }
    const exact = installed.find(name => name.replace('_', '-').toLowerCase() === language.toLowerCase());
    // Hong Kong and Taiwan write other characters than the pack for China.
    const traditional = /^zh-(?:Hant|TW|HK|MO)/i.test(language);
    const near = traditional ? undefined : installed.find(name => name.split('_')[0] === base);
    const found = exact ?? near;
    if (found) {
      return found;
    }
  }
  return null;
}

export const languagePlugin: JupyterFrontEndPlugin<void> = {
  id: '@tessera/lab:language',
  description: 'Takes the language of the browser where the person has chosen none.',
  autoStart: true,
  requires: [ISettingRegistry],
  activate: async (app: JupyterFrontEnd, registry: ISettingRegistry): Promise<void> => {
    if (navigator.languages[0]?.startsWith('en')) {
      return;
    }
    try {
      const language = await registry.load(LANGUAGE_SETTINGS);
      if (language.user.locale !== undefined) {
        return;
      }
      const pack = choosePack(navigator.languages, await packs(app.serviceManager.serverSettings));
      if (pack) {
        await language.set('locale', pack);
        // Every text of the page has been chosen already.
        window.location.reload();
      }
    } catch {
      // English remains, and Lab's own menu to choose.
    }
  }
};
