/** A job's detail kept current: by its own event stream while it lasts, with a fetch to begin with. */
import * as React from 'react';
import { problemOf } from '../problem';
import { LogBuffer } from '../logbuffer';
import { EventStream } from '../stream';
import type { Task, TaskDetail, TaskEvent } from '../types';
import { useModel } from './context';
import { readLog } from './logread';

const POLL_MS = 4000;

export interface IFollowed {
  detail: TaskDetail | null;
  events: TaskEvent[];
  log: LogBuffer;
  /** Grows when the log does. */
  logVersion: number;
  /** Grows when the executed notebook changed. */
  notebookVersion: number;
  error: unknown;
  reload: () => void;
}

interface ILogEvent {
  stream: string;
  text: string;
  run_id: string;
}

export function useFollow(id: string): IFollowed {
  const model = useModel();
  const { client } = model;
  const [detail, setDetail] = React.useState<TaskDetail | null>(null);
  const [events, setEvents] = React.useState<TaskEvent[]>([]);
  const [error, setError] = React.useState<unknown>(null);
  const [logVersion, logGrew] = React.useReducer((n: number) => n + 1, 0);
  const [notebookVersion, notebookChanged] = React.useReducer((n: number) => n + 1, 0);
  const [count, reload] = React.useReducer((n: number) => n + 1, 0);
  const log = React.useMemo(() => new LogBuffer(), []);

  React.useEffect(() => {
    let wanted = true;
    let version = -1;
    let run: string | null = null;
    /** Byte of the log up to which the stream has told. */
    let told = 0;
    let fetchingLog: Promise<void> | null = null;
    log.restart(0);

    const fetchLog = (): void => {
      fetchingLog ??= readLog(client, id, 'output', log, logGrew, () => wanted)
        .catch(() => {
          // The next event or poll asks again.
        })
        .finally(() => {
          fetchingLog = null;
        });
    };
    const fetchTask = async (): Promise<void> => {
      try {
        const [task, list] = await Promise.all([client.task(id), client.taskEvents(id)]);
        if (!wanted) {
          return;
        }
        setDetail(task);
        setEvents(list);
        setError(null);
        take(task);
      } catch (reason) {
        if (wanted) {
          setError(problemOf(reason));
        }
      }
    };
    const take = (task: Task): void => {
      if (task.version < version) {
        return;
      }
      version = task.version;
      onRun(task.run_id);
      model.accept(task);
    };
    const onRun = (next: string): void => {
      if (run !== null && run !== next) {
        // A new attempt has a log of its own.
        log.restart(0);
        told = 0;
        logGrew();
        notebookChanged();
      }
      run = next;
    };
    const onTask = (task: Task): void => {
      const moved = task.version > version;
      take(task);
      setDetail(last => (last && task.version >= last.version ? { ...last, ...task } : last));
      if (moved) {
        void fetchTask();
      }
    };
    const onLog = (piece: ILogEvent, end: number): void => {
      onRun(piece.run_id);
      const start = told;
      told = end;
      if (piece.stream !== 'output') {
        return;
      }
      if (log.append(piece.text, start, end)) {
        logGrew();
      } else {
        fetchLog();
      }
    };
    const stream = new EventStream({
      open: (last, signal) => {
        told = last === null ? log.end : Number.parseInt(last, 10);
        return client.openStream(`tasks/${id}/follow`, last, signal, { offset: told });
      },
      onEvent: event => {
        // The id of an event begins with the byte of the log up to which all has been told.
        const at = Number.parseInt(event.id ?? '', 10);
        if (event.event === 'log') {
          onLog(JSON.parse(event.data) as ILogEvent, at);
        } else if (event.event === 'notebook') {
          notebookChanged();
        } else if (event.event === 'task' || event.event === 'end') {
          onTask(JSON.parse(event.data) as Task);
          told = at;
          if (event.event === 'end') {
            stream.dispose();
            fetchLog();
            notebookChanged();
          }
        }
      }
    });
    const poll = setInterval(() => {
      if (document.hidden || stream.isDisposed || stream.state === 'live') {
        return;
      }
      void fetchTask();
      fetchLog();
      notebookChanged();
    }, POLL_MS);
    const onVisibility = (): void => {
      if (document.hidden) {
        stream.pause();
      } else if (!stream.isDisposed) {
        stream.resume();
        void fetchTask();
        fetchLog();
        notebookChanged();
      }
    };
    document.addEventListener('visibilitychange', onVisibility);
    const begin = async (): Promise<void> => {
      await fetchTask();
      fetchLog();
      notebookChanged();
      await fetchingLog;
      if (!document.hidden) {
        stream.resume();
      }
    };
    void begin();
    return () => {
      wanted = false;
      clearInterval(poll);
      document.removeEventListener('visibilitychange', onVisibility);
      stream.dispose();
    };
  }, [client, model, id, log, count]);

  return { detail, events, log, logVersion, notebookVersion, error, reload };
}
