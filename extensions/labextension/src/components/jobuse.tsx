/** What a job has used of its processors and memory, as its cluster measured it, beside what it has reserved. */
import * as React from 'react';
import { measured } from '../measured';
import { FINAL_PHASES, STARTED_PHASES, type TaskDetail } from '../types';
import { useLoad, useModel, useNow, useUi } from './context';
import { Loading, ProblemNote } from './controls';
import { Sparkline } from './sparkline';

/** How often a cluster tells what its runs use. */
const SAMPLE_MS = 60_000;

export function JobUse(props: { detail: TaskDetail }): React.JSX.Element | null {
  const { trans, format } = useUi();
  const { client } = useModel();
  const { detail } = props;
  const runs = STARTED_PHASES.has(detail.phase);
  const now = useNow(runs);
  const [samples, reload] = useLoad(
    () => client.measuredUse(detail.id),
    [client, detail.id, detail.run_id, detail.phase, Math.floor(now / SAMPLE_MS)]
  );
  const title = React.useId();
  if (!runs && !FINAL_PHASES.has(detail.phase)) {
    return null;
  }
  const run = detail.runs.find(other => other.id === detail.run_id);
  const use = samples.state === 'ready' ? measured(samples.value, run?.started_at ?? null) : null;
  return (
    <section className="tsr-pad" aria-labelledby={title}>
      <h2 id={title} className="tsr-use-title">
        {trans.__('Measured use')}
      </h2>
      {samples.state === 'loading' ? <Loading rows={2} /> : null}
      {samples.state === 'failed' ? <ProblemNote error={samples.error} onRetry={reload} /> : null}
      {samples.state === 'ready' && use === null ? (
        <p className="tsr-hint">
          {runs
            ? trans.__('Nothing has been measured yet. The cluster measures about once a minute.')
            : trans.__('Nothing was measured: the job was too short, or its cluster does not measure.')}
        </p>
      ) : null}
      {samples.state === 'ready' && use !== null ? (
        <>
          <table className="tsr-table">
            <thead>
              <tr>
                <th scope="col">{trans.__('Resource')}</th>
                <th scope="col" className="tsr-numeric">
                  {trans.__('Reserved')}
                </th>
                <th scope="col" className="tsr-numeric">
                  {trans.__('On average')}
                </th>
                <th scope="col" className="tsr-numeric">
                  {trans.__('At most')}
                </th>
                <th scope="col" className="tsr-col-curve">
                  {trans.__('Course')}
                </th>
              </tr>
            </thead>
            <tbody>
              <tr>
                <td>{format.dimension('cpu')}</td>
                <td className="tsr-numeric">{format.cores(detail.resources['cpu'] ?? 0)}</td>
                <td className="tsr-numeric">
                  {format.cores(use.seconds > 0 ? use.millicoreSeconds / use.seconds : use.mostMillicores)}
                </td>
                <td className="tsr-numeric">{format.cores(use.mostMillicores)}</td>
                <td className="tsr-col-curve">
                  <Sparkline
                    values={samples.value.map(sample => sample.cpu_millicores)}
                    limit={detail.resources['cpu'] ?? null}
                  />
                </td>
              </tr>
              <tr>
                <td>{format.dimension('memory')}</td>
                <td className="tsr-numeric">{format.mebibytes(detail.resources['memory'] ?? 0)}</td>
                <td className="tsr-numeric">{format.mebibytes(use.memoryMib)}</td>
                <td className="tsr-numeric">{format.mebibytes(use.mostMemoryMib)}</td>
                <td className="tsr-col-curve">
                  <Sparkline
                    values={samples.value.map(sample => sample.memory_mib)}
                    limit={detail.resources['memory'] ?? null}
                  />
                </td>
              </tr>
            </tbody>
          </table>
          <p className="tsr-hint">
            {trans.__(
              '%1 core-seconds in %2. Measured about once a minute; what cards do is not measured. You pay for what is reserved.',
              format.number(use.millicoreSeconds / 1000, 0),
              format.lasting(use.seconds)
            )}
          </p>
        </>
      ) : null}
    </section>
  );
}
