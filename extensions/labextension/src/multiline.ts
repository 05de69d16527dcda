/** Notebook files hold long texts as lists of lines; Lab's models want them whole, as the Jupyter server sends them. */
import type { ICell, INotebookContent, IOutput, MultilineString } from '@jupyterlab/nbformat';

const isLines = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every(line => typeof line === 'string');

const whole = (text: MultilineString): string => (Array.isArray(text) ? text.join('') : text);

function joinOutput(output: IOutput): IOutput {
  const joined: IOutput = { ...output };
  if (isLines(joined.text)) {
    joined.text = joined.text.join('');
  }
  if (typeof joined.data === 'object' && joined.data !== null) {
    // A list within JSON data is a list; of every other type it is a text in lines.
    joined.data = Object.fromEntries(
      Object.entries(joined.data).map(([type, value]) => [
        type,
        isLines(value) && !/json/.test(type) ? value.join('') : value
      ])
    );
  }
  return joined;
}

function joinCell(cell: ICell): ICell {
  const joined: ICell = { ...cell, source: whole(cell.source) };
  if (Array.isArray(cell.outputs)) {
    joined.outputs = (cell.outputs as IOutput[]).map(joinOutput);
  }
  return joined;
}

export function joinLines(notebook: INotebookContent): INotebookContent {
  return { ...notebook, cells: notebook.cells.map(joinCell) };
}
