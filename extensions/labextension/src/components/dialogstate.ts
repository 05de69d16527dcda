/** Loading, estimating and submitting for the submit dialog. */
import type { Contents } from '@jupyterlab/services';
import { UUID } from '@lumino/coreutils';
import * as React from 'react';
import { problemOf } from '../problem';
import { kindOf, toRequest, type IDraft } from '../draft';
import type {
  ClusterCapacity,
  Environment,
  Estimate,
  INotebookParameters,
  Queue,
  RecurringTask,
  Task
} from '../types';
import { useModel } from './context';

const ESTIMATE_DELAY_MS = 350;

/** What the dialog offers for choice. */
export interface IOffers {
  environments: Environment[];
  clusters: ClusterCapacity[];
  queues: readonly Queue[];
  notebook: INotebookParameters | null;
}

export function useOffers(path: string): { offers: IOffers | null; error: unknown; reload: () => void } {
  const { client } = useModel();
  const [offers, setOffers] = React.useState<IOffers | null>(null);
  const [error, setError] = React.useState<unknown>(null);
  const [count, reload] = React.useReducer((n: number) => n + 1, 0);
  React.useEffect(() => {
    let wanted = true;
    setError(null);
    Promise.all([
      client.environments(),
      client.capacity(),
      client.queues(),
      kindOf(path) === 'notebook' ? client.parameters(path) : Promise.resolve(null)
    ]).then(
      ([environments, clusters, queues, notebook]) => {
        if (wanted) {
          setOffers({ environments, clusters, queues, notebook });
        }
      },
      (reason: unknown) => {
        if (wanted) {
          setError(reason);
        }
      }
    );
    return () => {
      wanted = false;
    };
  }, [client, path, count]);
  return { offers, error, reload };
}

export interface IEstimateState {
  estimate: Estimate | null;
  error: unknown;
  /** The estimate shown is of an older draft. */
  pending: boolean;
}

/** The service's verdict on the draft, asked for when the person pauses. */
export function useEstimate(draft: IDraft, enabled: boolean): IEstimateState {
  const { client } = useModel();
  const [state, setState] = React.useState<IEstimateState>({ estimate: null, error: null, pending: true });
  const body = JSON.stringify(toRequest(draft));
  React.useEffect(() => {
    if (!enabled) {
      return undefined;
    }
    const abort = new AbortController();
    setState(last => ({ ...last, pending: true }));
    const timer = setTimeout(() => {
      client.estimate(toRequest(draft), abort.signal).then(
        estimate => {
          setState({ estimate, error: null, pending: false });
        },
        (error: unknown) => {
          if (!abort.signal.aborted) {
            setState({ estimate: null, error, pending: false });
          }
        }
      );
    }, ESTIMATE_DELAY_MS);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
    // `body` is the draft as far as the service is concerned.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [client, body, enabled]);
  return state;
}

export function isTask(made: Task | RecurringTask): made is Task {
  return 'phase' in made;
}

export interface ISubmit {
  inFlight: boolean;
  error: unknown;
  submit: () => void;
}

/**
 * Submits once. The key is made with the dialog, so that a second click, a retry after a lost answer and a second
 * press of Ctrl+Enter all mean the same job.
 */
export function useSubmit(draft: IDraft, onSubmitted: (made: Task | RecurringTask) => void): ISubmit {
  const model = useModel();
  const key = React.useRef(UUID.uuid4());
  const busy = React.useRef(false);
  const [inFlight, setInFlight] = React.useState(false);
  const [error, setError] = React.useState<unknown>(null);
  const submit = (): void => {
    if (busy.current) {
      return;
    }
    busy.current = true;
    setInFlight(true);
    setError(null);
    model.client.submit(draft.path, draft.include, toRequest(draft), key.current).then(
      made => {
        if (isTask(made)) {
          model.accept(made);
        }
        onSubmitted(made);
      },
      (reason: unknown) => {
        busy.current = false;
        setInFlight(false);
        setError(problemOf(reason));
      }
    );
  };
  return { inFlight, error, submit };
}

/** The tenant for which the draft would be submitted; empty while that is not known. */
export function useTenant(draft: IDraft): string {
  const { me } = useModel();
  return draft.tenant ?? me?.default_tenant ?? me?.tenants[0] ?? '';
}

/** What the sections of the dialog get. */
export interface ISectionProps {
  draft: IDraft;
  change: (part: Partial<IDraft>) => void;
  offers: IOffers;
  contents: Contents.IManager;
}
