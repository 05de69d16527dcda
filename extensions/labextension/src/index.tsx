/** Plugin of the Tessera extension: model, commands, panels and status chip. */
import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, MainAreaWidget, Notification, WidgetTracker } from '@jupyterlab/apputils';
import { IEditorServices } from '@jupyterlab/codeeditor';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { FileDialog, IDefaultFileBrowser, IFileBrowserFactory } from '@jupyterlab/filebrowser';
import { ILauncher } from '@jupyterlab/launcher';
import { NotebookPanel } from '@jupyterlab/notebook';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator } from '@jupyterlab/translation';
import type { ReadonlyJSONObject } from '@lumino/coreutils';
import * as React from 'react';
import { Client } from './client';
import { problemOf } from './problem';
import { ComputePanel, StatusChip } from './components/compute';
import type { IUi } from './components/context';
import { openRunDialog } from './components/dialog';
import { isTask } from './components/dialogstate';
import { JobDetail } from './components/jobdetail';
import { JobsPanel } from './components/jobspanel';
import { phaseLabel, reasonText } from './components/phase';
import { fromRequest, kindOf, newDraft, type IDraft } from './draft';
import { Formatter } from './format';
import { tesseraIcon } from './icons';
import { announceIdleness } from './idle';
import { TesseraModel } from './model';
import { languagePlugin } from './language';
import { DEFAULTS, preferencesOf, translateSchema } from './settings';
import { CommandIds, ITesseraModel } from './tokens';
import type { Task } from './types';
import { TesseraWidget } from './widgets';

export { ITesseraModel } from './tokens';

/** Width of a window, in pixels, in which two documents have room side by side. */
const WIDE = 1100;

const plugin: JupyterFrontEndPlugin<ITesseraModel> = {
  id: '@tessera/lab:plugin',
  description: 'Runs notebooks and scripts as jobs and shows their state, quota and cost.',
  autoStart: true,
  provides: ITesseraModel,
  requires: [
    ITranslator,
    IDocumentManager,
    IRenderMimeRegistry,
    NotebookPanel.IContentFactory,
    IEditorServices
  ],
  optional: [
    ISettingRegistry,
    ICommandPalette,
    ILauncher,
    IStatusBar,
    ILayoutRestorer,
    IFileBrowserFactory,
    IDefaultFileBrowser
  ],
  activate: (
    app: JupyterFrontEnd,
    translator: ITranslator,
    documents: IDocumentManager,
    rendermime: IRenderMimeRegistry,
    contentFactory: NotebookPanel.IContentFactory,
    editors: IEditorServices,
    settings: ISettingRegistry | null,
    palette: ICommandPalette | null,
    launcher: ILauncher | null,
    statusBar: IStatusBar | null,
    restorer: ILayoutRestorer | null,
    browsers: IFileBrowserFactory | null,
    defaultBrowser: IDefaultFileBrowser | null
  ): ITesseraModel => {
    const trans = translator.load('tessera');
    const { commands, shell, serviceManager } = app;
    const language = translator.languageCode.replace('_', '-');
    const model = new TesseraModel(new Client(serviceManager.serverSettings, language));
    const format = new Formatter(language, trans);
    const ui: IUi = { model, trans, format, commands };
    const parts = { rendermime, contentFactory, mimeTypeService: editors.mimeTypeService, translator };
    const tracker = new WidgetTracker<MainAreaWidget<TesseraWidget>>({ namespace: 'tessera' });

    let preferences = DEFAULTS;

    const show = (
      id: string,
      title: string,
      args: ReadonlyJSONObject,
      content: React.JSX.Element,
      beside = false
    ): void => {
      const known = tracker.find(widget => widget.id === id);
      if (known) {
        shell.activateById(known.id);
        return;
      }
      const widget = new MainAreaWidget({ content: new TesseraWidget(ui, content, args) });
      widget.toolbar.hide();
      widget.id = id;
      widget.title.label = title;
      widget.title.icon = tesseraIcon;
      widget.title.closable = true;
      void tracker.add(widget);
      const others = tracker.filter(other => other.id !== id && other.isAttached);
      const ref = others.at(-1)?.id;
      // A second job joins the first; the window is split once.
      const place =
        ref === undefined ? { mode: 'split-right' as const } : { mode: 'tab-after' as const, ref };
      shell.add(widget, 'main', beside ? place : {});
      shell.activateById(widget.id);
    };
    const openFile = (path: string): void => {
      documents.openOrReveal(path);
    };
    const currentPath = (): string | null => {
      const widget = shell.currentWidget;
      const path = widget ? documents.contextForWidget(widget)?.path : undefined;
      return path && kindOf(path) ? path : null;
    };
    const selectedPath = (): string | null => {
      const browser = browsers?.tracker.currentWidget ?? defaultBrowser;
      const path = browser ? [...browser.selectedItems()][0]?.path : undefined;
      return path && kindOf(path) ? path : null;
    };
    const pick = async (): Promise<string | null> => {
      if (!defaultBrowser) {
        return null;
      }
      const answer = await FileDialog.getOpenFiles({
        manager: documents,
        title: trans.__('Choose a file to run'),
        filter: file => (file.type === 'directory' || kindOf(file.path) ? {} : null),
        translator
      });
      const path = answer.value?.[0]?.path;
      return path && kindOf(path) ? path : null;
    };
    const run = async (draft: IDraft): Promise<void> => {
      const opened = documents.findWidget(draft.path);
      const context = opened ? documents.contextForWidget(opened) : undefined;
      if (context?.model.dirty) {
        // The snapshot is made of what is on disk.
        await context.save();
      }
      const task = await openRunDialog(ui, draft, serviceManager.contents);
      if (task && !isTask(task)) {
        const next = task.next_at ? format.time(task.next_at) : '—';
        Notification.success(trans.__('%1 is scheduled. It runs next: %2', task.spec.name, next), {
          autoClose: 10_000
        });
        return;
      }
      if (!task || preferences.afterSubmit === 'nothing') {
        return;
      }
      if (preferences.afterSubmit === 'jobs') {
        await commands.execute(CommandIds.openJobs);
      } else {
        // Two halves of a narrow window show neither the file nor the job.
        const beside = preferences.afterSubmit === 'beside' && window.innerWidth >= WIDE;
        await commands.execute(CommandIds.openJob, { id: task.id, name: task.name, beside });
      }
    };

    commands.addCommand(CommandIds.run, {
      label: trans.__('Run as job'),
      iconLabel: trans.__('Run as job'),
      caption: trans.__('Run this file on a cluster, while you go on'),
      // Lab shows a toolbar button's label only where it has no icon.
      icon: args => (args.toolbar ? undefined : tesseraIcon),
      isEnabled: args =>
        // A toolbar's button acts on its own notebook, which a click makes the current one.
        Boolean(args.path ?? args.pick ?? args.isLauncher ?? args.from ?? args.toolbar) ||
        currentPath() !== null,
      execute: async args => {
        const path =
          typeof args.path === 'string'
            ? args.path
            : args.pick || args.isLauncher
              ? await pick()
              : args.from === 'browser'
                ? selectedPath()
                : currentPath();
        if (path) {
          await run(newDraft(path, preferences.start));
        }
      }
    });
    commands.addCommand(CommandIds.openJobs, {
      label: trans.__('Jobs'),
      caption: trans.__('Show jobs, their progress and cost'),
      icon: tesseraIcon,
      execute: () => {
        show('tessera-jobs', trans.__('Jobs'), { command: CommandIds.openJobs }, <JobsPanel />);
      }
    });
    commands.addCommand(CommandIds.openJob, {
      label: trans.__('Open job'),
      icon: tesseraIcon,
      execute: args => {
        const id = typeof args.id === 'string' ? args.id : '';
        const name = typeof args.name === 'string' ? args.name : trans.__('Job');

        show(
          `tessera-job-${id}`,
          name,
          { command: CommandIds.openJob, id, name },
          <JobDetail id={id} parts={parts} contents={serviceManager.contents} openFile={openFile} />,
          args.beside === true
        );
      }
    });
    commands.addCommand(CommandIds.clone, {
      label: trans.__('Clone job'),
      execute: async args => {
        try {
          const task = await model.client.task(typeof args.id === 'string' ? args.id : '');
          await run(fromRequest(task.spec));
        } catch (error) {
          Notification.error(problemOf(error).message);
        }
      }
    });
    commands.addCommand(CommandIds.restore, {
      label: trans.__('Open again'),
      execute: args => {
        const { command, ...rest } = args;
        return typeof command === 'string' ? commands.execute(command, rest) : undefined;
      }
    });
    commands.addCommand(CommandIds.refresh, {
      label: trans.__('Refresh jobs'),
      execute: () => model.refresh()
    });

    const panel = new TesseraWidget(ui, <ComputePanel />);
    panel.id = 'tessera-compute';
    panel.title.icon = tesseraIcon;
    panel.title.caption = trans.__('Compute');
    shell.add(panel, 'left', { rank: 600 });
    commands.addCommand(CommandIds.showCompute, {
      label: trans.__('Compute'),
      icon: tesseraIcon,
      execute: () => {
        shell.activateById(panel.id);
      }
    });

    for (const command of [CommandIds.run, CommandIds.openJobs, CommandIds.showCompute, CommandIds.refresh]) {
      palette?.addItem({ command, category: 'Tessera' });
    }
    launcher?.add({ command: CommandIds.run, category: 'Tessera', args: { isLauncher: true }, rank: 1 });
    launcher?.add({ command: CommandIds.openJobs, category: 'Tessera', rank: 2 });
    statusBar?.registerStatusItem('@tessera/lab:status', {
      item: new TesseraWidget(ui, <StatusChip />),
      align: 'right',
      rank: 50
    });
    if (restorer) {
      restorer.add(panel, 'tessera-compute');
      void restorer.restore(tracker, {
        command: CommandIds.restore,
        args: widget => widget.content.args,
        name: widget => widget.id
      });
    }
    if (settings) {
      settings.transform(plugin.id, {
        fetch: loaded => ({ ...loaded, schema: translateSchema(loaded.schema, trans) })
      });
      void settings.load(plugin.id).then(loaded => {
        const apply = (): void => {
          preferences = preferencesOf(loaded);
          model.pollInterval = preferences.pollInterval;
        };
        loaded.changed.connect(apply);
        apply();
      });
    }
    announceIdleness(model, trans, format);
    model.finished.connect((_, task) => {
      if (task.kind !== 'workspace') {
        void announceEnd(task);
      }
    });
    const announceEnd = async (task: Task): Promise<void> => {
      // Results come to the workspace at once rather than at the server's next look.
      const placed = model.local?.places_outputs
        ? await model.client.placeOutputs(task.id).catch(() => ({ placed: [] }))
        : { placed: [] };
      if (!preferences.notify) {
        return;
      }
      const notebook = placed.placed.find(path => path.endsWith('.ipynb'));
      const actions: Notification.IAction[] = [
        {
          label: trans.__('Show job'),
          callback: () => {
            void commands.execute(CommandIds.openJob, { id: task.id, name: task.name });
          }
        }
      ];
      if (notebook) {
        actions.push({
          label: trans.__('Open notebook'),
          displayType: 'accent',
          callback: () => {
            openFile(notebook);
          }
        });
      }
      if (task.phase === 'SUCCEEDED') {
        Notification.success(trans.__('%1 has finished.', task.name), { actions, autoClose: 10_000 });
      } else if (task.phase === 'CANCELLED') {
        Notification.info(trans.__('%1 was stopped.', task.name), { actions, autoClose: 5000 });
      } else {
        const why = reasonText(task.reasons[0]);
        const text = trans.__('%1: %2', task.name, phaseLabel(task.phase, trans));
        Notification.warning(why ? `${text}. ${why}` : text, { actions, autoClose: false });
      }
    };
    return model;
  }
};

export default [plugin, languagePlugin];
