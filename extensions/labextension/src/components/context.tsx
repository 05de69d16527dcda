/** What every component needs, handed down by React context. */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import * as React from 'react';
import type { Formatter } from '../format';
import type { ITesseraModel } from '../tokens';

export interface IUi {
  model: ITesseraModel;
  trans: TranslationBundle;
  format: Formatter;
  commands: CommandRegistry;
}

const UiContext = React.createContext<IUi | null>(null);

export const UiProvider = UiContext.Provider;

export function useUi(): IUi {
  const ui = React.useContext(UiContext);
  if (!ui) {
    throw new Error('A Tessera component was rendered outside of its provider');
  }
  return ui;
}

/** Renders again with each change of the model. */
export function useModel(): ITesseraModel {
  const { model } = useUi();
  React.useSyncExternalStore(
    React.useCallback(
      notify => {
        model.changed.connect(notify);
        return () => {
          model.changed.disconnect(notify);
        };
      },
      [model]
    ),
    () => model.version
  );
  return model;
}

/**
 * The service's clock, ticking while `active` and the page is seen: every second, or every five where the person asks
 * for less motion.
 */
export function useNow(active = true): number {
  const { model } = useUi();
  const [, tick] = React.useReducer((n: number) => n + 1, 0);
  React.useEffect(() => {
    if (!active) {
      return undefined;
    }
    const calm = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    const timer = setInterval(
      () => {
        if (!document.hidden) {
          tick();
        }
      },
      calm ? 5000 : 1000
    );
    return () => {
      clearInterval(timer);
    };
  }, [active]);
  return model.now();
}

export type Loaded<T> =
  { state: 'loading' } | { state: 'failed'; error: unknown } | { state: 'ready'; value: T };

/** Result of `load`, run again when `keys` change or `reload` is called; the last value stays meanwhile. */
export function useLoad<T>(load: () => Promise<T>, keys: React.DependencyList): [Loaded<T>, () => void] {
  const [result, setResult] = React.useState<Loaded<T>>({ state: 'loading' });
  const [count, reload] = React.useReducer((n: number) => n + 1, 0);
  React.useEffect(() => {
    let wanted = true;
    load().then(
      value => {
        if (wanted) {
          setResult({ state: 'ready', value });
        }
      },
      (error: unknown) => {
        if (wanted) {
          setResult(last => (last.state === 'ready' ? last : { state: 'failed', error }));
        }
      }
    );
    return () => {
      wanted = false;
    };
    // The caller says by `keys` when to load again.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [...keys, count]);
  return [result, reload];
}
