/** Output of a job of several nodes, part by part: the first is followed with the job, another is read while it is shown. */
import * as React from 'react';
import { LogBuffer } from '../logbuffer';
import { useModel, useUi } from './context';
import { Field } from './controls';
import { readLog } from './logread';
import { LogView } from './logview';

const READ_MS = 1000;

export function LogParts(props: {
  id: string;
  run: string;
  parts: number;
  final: boolean;
  log: LogBuffer;
  version: number;
}): React.JSX.Element {
  const { trans } = useUi();
  const [part, setPart] = React.useState(0);
  const other = usePart(props.id, props.run, part, props.final);
  if (props.parts < 2) {
    return <LogView log={props.log} version={props.version} final={props.final} />;
  }
  return (
    <>
      <div className="tsr-toolbar">
        <Field label={trans.__('Output of part')}>
          {id => (
            <input
              id={id}
              className="tsr-input"
              type="number"
              min={0}
              max={props.parts - 1}
              step={1}
              value={part}
              onChange={event => {
                const next = Math.trunc(Number(event.target.value));
                if (next >= 0 && next < props.parts) {
                  setPart(next);
                }
              }}
            />
          )}
        </Field>
        <span className="tsr-note">{trans.__('of %1, counted from 0', props.parts)}</span>
      </div>
      {part === 0 ? (
        <LogView log={props.log} version={props.version} final={props.final} />
      ) : (
        <LogView key={part} log={other.log} version={other.version} final={props.final} />
      )}
    </>
  );
}

/** The log of a part other than the first, read once a second while the job lasts and the page is seen. */
function usePart(id: string, run: string, part: number, final: boolean): { log: LogBuffer; version: number } {
  const { client } = useModel();
  const [version, grew] = React.useReducer((n: number) => n + 1, 0);
  // A new attempt has logs of its own.
  // eslint-disable-next-line react-hooks/exhaustive-deps
  const log = React.useMemo(() => new LogBuffer(), [id, run, part]);
  React.useEffect(() => {
    if (part === 0) {
      return undefined;
    }
    let wanted = true;
    let busy = false;
    const read = (): void => {
      if (busy || document.hidden) {
        return;
      }
      busy = true;
      readLog(client, id, `part-${part}`, log, grew, () => wanted)
        .catch(() => {
          // The next second asks again.
        })
        .finally(() => {
          busy = false;
        });
    };
    read();
    const timer = final ? undefined : setInterval(read, READ_MS);
    return () => {
      wanted = false;
      clearInterval(timer);
    };
  }, [client, id, part, log, final]);
  return { log, version };
}
