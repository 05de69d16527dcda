/** The executed notebook, read-only, brought up to date cell by cell with Lab's own widgets. */
import type { IEditorMimeTypeService } from '@jupyterlab/codeeditor';
import { CodeCell, type ICodeCellModel } from '@jupyterlab/cells';
import type { ICodeCell, INotebookContent } from '@jupyterlab/nbformat';
import { NotebookModel, StaticNotebook, type NotebookPanel } from '@jupyterlab/notebook';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { ITranslator } from '@jupyterlab/translation';
import { MessageLoop } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';
import * as React from 'react';
import { problemOf } from '../problem';
import { joinLines } from '../multiline';
import { useModel, useUi } from './context';
import { Loading, ProblemNote } from './controls';

/** Lab's own parts, from its tokens: nothing of them is bundled. */
export interface INotebookParts {
  rendermime: IRenderMimeRegistry;
  contentFactory: NotebookPanel.IContentFactory;
  mimeTypeService: IEditorMimeTypeService;
  translator: ITranslator;
}

/** A notebook that takes newer versions of itself: only cells that differ are drawn again. */
class LiveNotebook {
  constructor(parts: INotebookParts) {
    this._model = new NotebookModel({ translator: parts.translator });
    this.widget = new StaticNotebook({
      rendermime: parts.rendermime,
      contentFactory: parts.contentFactory,
      mimeTypeService: parts.mimeTypeService,
      translator: parts.translator,
      notebookConfig: { ...StaticNotebook.defaultNotebookConfig, windowingMode: 'none', scrollPastEnd: false }
    });
    this.widget.addClass('tsr-notebook');
    this.widget.model = this._model;
  }

  readonly widget: StaticNotebook;
  /** Until the person looks elsewhere. */
  follows = true;

  update(content: INotebookContent): void {
    const cells = this._model.cells;
    const before = this._content;
    this._content = content;
    const same =
      before?.cells.length === content.cells.length &&
      content.cells.every((cell, index) => {
        const old = before.cells[index];
        return old?.cell_type === cell.cell_type && old.source === cell.source;
      });
    if (!same) {
      this._model.fromJSON(content);
      this._lock();
      return;
    }
    content.cells.forEach((cell, index) => {
      if (cell.cell_type !== 'code' || JSON.stringify(cell) === JSON.stringify(before.cells[index])) {
        return;
      }
      const model = cells.get(index) as ICodeCellModel;
      const code = cell as ICodeCell;
      model.outputs.fromJSON(code.outputs);
      model.executionCount = code.execution_count;
    });
  }

  /** Marks the code cell that runs, counted from 1 over those that are not empty, and keeps the end of its output in view. */
  mark(current: number | null): void {
    let ordinal = 0;
    let running: CodeCell | null = null;
    for (const cell of this.widget.widgets) {
      if (cell instanceof CodeCell && cell.model.sharedModel.source.trim() !== '') {
        ordinal++;
        cell.toggleClass('tsr-mod-running', ordinal === current);
        cell.model.executionState = ordinal === current ? 'running' : 'idle';
        running = ordinal === current ? cell : running;
      }
    }
    if (running && this.follows) {
      const { node } = running;
      requestAnimationFrame(() => {
        this._show(node);
      });
    }
  }

  /** Scrolls only the part that shows the notebook: `scrollIntoView` would move Lab's own frame, too. */
  private _show(node: HTMLElement): void {
    const frame = this.widget.node.closest<HTMLElement>('.tsr-scroll') ?? this.widget.node.parentElement;
    if (frame) {
      const below = node.getBoundingClientRect().bottom - frame.getBoundingClientRect().bottom;
      frame.scrollTop += Math.max(below, 0);
    }
  }

  dispose(): void {
    this.widget.dispose();
    this._model.dispose();
  }

  private _lock(): void {
    for (const cell of this.widget.widgets) {
      cell.model.sharedModel.setMetadata({ ...cell.model.sharedModel.getMetadata(), editable: false });
      cell.readOnly = true;
      cell.loadEditableState();
    }
  }

  private _model: NotebookModel;
  private _content: INotebookContent | null = null;
}

export function NotebookView(props: {
  id: string;
  version: number;
  parts: INotebookParts;
  /** The code cell that runs, from 1. */
  current: number | null;
  /** Whether there can be a notebook yet. */
  started: boolean;
  final: boolean;
}): React.JSX.Element {
  const { trans } = useUi();
  const { client } = useModel();
  const { parts, id } = props;
  const host = React.useRef<HTMLDivElement>(null);
  const live = React.useRef<LiveNotebook | null>(null);
  const etag = React.useRef<string | null>(null);
  const { current } = props;
  const running = React.useRef(current);
  running.current = current;
  const [state, setState] = React.useState<'loading' | 'none' | 'shown'>('loading');
  const [error, setError] = React.useState<unknown>(null);

  React.useEffect(() => {
    const notebook = new LiveNotebook(parts);
    live.current = notebook;
    etag.current = null;
    if (host.current) {
      // React owns the host, so Lumino is told by hand that the widget is on the page.
      MessageLoop.sendMessage(notebook.widget, Widget.Msg.BeforeAttach);
      host.current.appendChild(notebook.widget.node);
      for (const kind of ['wheel', 'pointerdown', 'keydown', 'touchmove']) {
        const elsewhere = (): void => {
          notebook.follows = false;
        };
        host.current.addEventListener(kind, elsewhere, { passive: true });
      }
      MessageLoop.sendMessage(notebook.widget, Widget.Msg.AfterAttach);
    }
    return () => {
      live.current = null;
      MessageLoop.sendMessage(notebook.widget, Widget.Msg.BeforeDetach);
      notebook.widget.node.remove();
      MessageLoop.sendMessage(notebook.widget, Widget.Msg.AfterDetach);
      notebook.dispose();
    };
  }, [parts, id]);

  React.useEffect(() => {
    let wanted = true;
    if (!props.started) {
      setState('none');
      return undefined;
    }
    client.notebook(id, etag.current).then(
      answer => {
        if (!wanted) {
          return;
        }
        setError(null);
        if (answer) {
          etag.current = answer.etag;
          live.current?.update(joinLines(answer.content as INotebookContent));
          live.current?.mark(running.current);
          setState('shown');
        } else {
          setState(last => (last === 'shown' ? last : 'none'));
        }
      },
      (reason: unknown) => {
        if (wanted) {
          setError(problemOf(reason));
        }
      }
    );
    return () => {
      wanted = false;
    };
  }, [client, id, props.version, props.started]);

  React.useEffect(() => {
    live.current?.mark(current);
  }, [current, state]);

  return (
    <div className="tsr-notebook-view">
      {error && state !== 'shown' ? <ProblemNote error={error} /> : null}
      {state === 'loading' && !error ? <Loading /> : null}
      {state === 'none' && !error ? (
        <div className="tsr-empty">
          <p>
            {props.final
              ? trans.__('This job left no notebook.')
              : trans.__('The notebook appears here as soon as the first cell runs.')}
          </p>
        </div>
      ) : null}
      <div ref={host} className="tsr-notebook-host" hidden={state !== 'shown'} />
    </div>
  );
}
