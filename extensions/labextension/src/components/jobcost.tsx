/** The bill of a job, line by line. */
import * as React from 'react';
import type { BillLine, TaskDetail } from '../types';
import { useLoad, useModel, useUi } from './context';
import { Loading, ProblemNote } from './controls';

/** Billed units hold this many of the unit in which use is metered. */
function unitsIn(dimension: string): number {
  if (dimension === 'cpu') {
    return 1000;
  }
  return dimension.startsWith('cards/') ? 100 : 1024;
}

export function JobCost(props: { detail: TaskDetail }): React.JSX.Element {
  const { trans, format } = useUi();
  const { client } = useModel();
  const { id, version } = props.detail;
  const [bill, reload] = useLoad(() => client.bill(id), [client, id, version]);
  if (bill.state !== 'ready') {
    return bill.state === 'loading' ? <Loading /> : <ProblemNote error={bill.error} onRetry={reload} />;
  }
  const { lines, currency, amount_micro: amount, seconds } = bill.value;
  const units: Record<string, string> = {
    core: trans.__('core'),
    GiB: 'GiB',
    card: trans.__('card')
  };
  const use = (line: BillLine): string => {
    const unit = units[line.unit] ?? line.unit;
    const unitSeconds = line.unit_seconds / unitsIn(line.dimension);
    return unitSeconds < 3600
      ? trans.__('%1 %2-seconds', format.number(unitSeconds), unit)
      : trans.__('%1 %2-hours', format.number(unitSeconds / 3600, 3), unit);
  };
  // Every billed micro-unit is seen while the sum is small.
  const digits = amount < 1_000_000 ? 6 : 4;
  if (lines.length === 0) {
    return <p className="tsr-hint tsr-pad">{trans.__('Nothing has been charged. Waiting is free.')}</p>;
  }
  return (
    <div className="tsr-pad">
      <table className="tsr-table">
        <thead>
          <tr>
            <th scope="col">{trans.__('Resource')}</th>
            <th scope="col" className="tsr-numeric">
              {trans.__('Use')}
            </th>
            <th scope="col" className="tsr-numeric">
              {trans.__('Price')}
            </th>
            <th scope="col" className="tsr-numeric">
              {trans.__('Amount')}
            </th>
          </tr>
        </thead>
        <tbody>
          {lines.map((line, index) => (
            <tr key={index}>
              <td>
                {format.dimension(line.dimension)}{' '}
                {line.provisional ? <span className="tsr-tag">{trans.__('provisional')}</span> : null}
              </td>
              <td className="tsr-numeric">{use(line)}</td>
              <td className="tsr-numeric">
                {trans.__(
                  '%1 per %2',
                  format.rate(line.nano_per_unit_hour, currency),
                  units[line.unit] ?? line.unit
                )}
              </td>
              <td className="tsr-numeric">{format.money(line.amount_micro, currency, digits)}</td>
            </tr>
          ))}
        </tbody>
        <tfoot>
          <tr>
            <th scope="row">{trans.__('Sum')}</th>
            <td className="tsr-numeric">{trans.__('%1 charged', format.lasting(seconds))}</td>
            <td />
            <td className="tsr-numeric">{format.money(amount, currency, digits)}</td>
          </tr>
        </tfoot>
      </table>
      <p className="tsr-hint">
        {trans.__('Billed by the second, by what is reserved. Waiting in the queue is free.')}
      </p>
    </div>
  );
}
