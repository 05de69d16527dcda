/** Lumino widgets around the components. */
import { ReactWidget } from '@jupyterlab/ui-components';
import type { ReadonlyJSONObject } from '@lumino/coreutils';
import * as React from 'react';
import { UiProvider, type IUi } from './components/context';

export class TesseraWidget extends ReactWidget {
  constructor(
    private _ui: IUi,
    private _content: React.JSX.Element,
    /** With what the restorer opens it again. */
    readonly args: ReadonlyJSONObject = {}
  ) {
    super();
    this.addClass('tsr-widget');
  }

  protected override render(): React.JSX.Element {
    return <UiProvider value={this._ui}>{this._content}</UiProvider>;
  }
}
