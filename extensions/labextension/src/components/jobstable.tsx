/** Rows and headings of the jobs table. */
import * as React from 'react';
import { accrued } from '../accrual';
import { elapsedSeconds, type Column, type IOrder } from '../sorting';
import { CommandIds } from '../tokens';
import { FINAL_PHASES, type Task } from '../types';
import { useUi } from './context';
import { Bar, Time } from './controls';
import { PhaseBadge, reasonText } from './phase';

interface ITableProps {
  rows: Task[];
  now: number;
  order: IOrder;
  selected: ReadonlySet<string>;
  showOwner: boolean;
  onOrder: (order: IOrder) => void;
  onSelect: (selected: ReadonlySet<string>) => void;
}

export function JobsTable(props: ITableProps): React.JSX.Element {
  const { trans } = useUi();
  const { rows, order, selected } = props;
  const all = rows.length > 0 && rows.every(task => selected.has(task.id));
  const columns: { column: Column; label: string; numeric?: boolean }[] = [
    { column: 'state', label: trans.__('State') },
    { column: 'name', label: trans.__('Name') },
    { column: 'cluster', label: trans.__('Cluster and queue') },
    { column: 'progress', label: trans.__('Progress') },
    { column: 'elapsed', label: trans.__('Elapsed'), numeric: true },
    { column: 'cost', label: trans.__('Cost'), numeric: true },
    { column: 'created', label: trans.__('Submitted'), numeric: true }
  ];
  const some = !all && rows.some(task => selected.has(task.id));
  return (
    <table className="tsr-table tsr-jobs" onKeyDown={moveFocus}>
      <caption className="tsr-announce">{trans.__('Jobs')}</caption>
      <thead>
        <tr>
          <th className="tsr-check">
            <input
              type="checkbox"
              aria-label={trans.__('Select all')}
              checked={all}
              ref={element => {
                if (element) {
                  element.indeterminate = some;
                }
              }}
              onChange={() => {
                props.onSelect(new Set(all ? [] : rows.map(task => task.id)));
              }}
            />
          </th>
          {columns.map(({ column, label, numeric }) => (
            <th
              key={column}
              scope="col"
              className={`tsr-col-${column}${numeric ? ' tsr-numeric' : ''}`}
              aria-sort={order.column === column ? order.direction : 'none'}
            >
              <button
                type="button"
                onClick={() => {
                  const flip = order.column === column && order.direction === 'ascending';
                  props.onOrder({ column, direction: flip ? 'descending' : 'ascending' });
                }}
              >
                {label}
                <span className="tsr-sort" aria-hidden="true">
                  {order.column === column ? (order.direction === 'ascending' ? '↑' : '↓') : ''}
                </span>
              </button>
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map(task => (
          <Row key={task.id} {...props} task={task} />
        ))}
      </tbody>
    </table>
  );
}

function Row(props: ITableProps & { task: Task }): React.JSX.Element {
  const { trans, format, commands } = useUi();
  const { task, now, selected } = props;
  const seconds = elapsedSeconds(task, now);
  const final = FINAL_PHASES.has(task.phase);
  const open = (): void => {
    void commands.execute(CommandIds.openJob, { id: task.id, name: task.name });
  };
  return (
    <tr
      className={selected.has(task.id) ? 'tsr-mod-on' : ''}
      onClick={event => {
        if (!(event.target as HTMLElement).closest('input, button, a')) {
          open();
        }
      }}
    >
      <td className="tsr-check">
        <input
          type="checkbox"
          aria-label={trans.__('Select %1', task.name)}
          checked={selected.has(task.id)}
          onChange={event => {
            const next = new Set(selected);
            if (event.target.checked) {
              next.add(task.id);
            } else {
              next.delete(task.id);
            }
            props.onSelect(next);
          }}
        />
      </td>
      <td className="tsr-col-state">
        <PhaseBadge task={task} />
      </td>
      <td className="tsr-col-name">
        <button type="button" className="tsr-row-link" onClick={open}>
          {task.name}
        </button>
        <span className="tsr-sub">
          {props.showOwner ? `${task.owner} · ${task.entry ?? ''}` : task.entry}
        </span>
      </td>
      <td className="tsr-col-cluster">
        {task.cluster ?? <span className="tsr-faint">{trans.__('not placed')}</span>}
        <span className="tsr-sub">{task.queue}</span>
      </td>
      <td className="tsr-col-progress">
        <ProgressCell task={task} />
      </td>
      <td className="tsr-col-elapsed tsr-numeric" title={format.resources(task.resources)}>
        {task.started_at ? format.clock(seconds) : <span className="tsr-faint">—</span>}
        <span className="tsr-sub">{format.resources(task.resources)}</span>
      </td>
      <td className="tsr-col-cost tsr-numeric">
        {task.cost ? (
          format.money(accrued(task.cost, now), task.cost.currency, 4)
        ) : (
          <span className="tsr-faint">—</span>
        )}
        {task.cost && !final && task.cost.nano_per_hour > 0 ? (
          <span className="tsr-sub">{format.rate(task.cost.nano_per_hour, task.cost.currency)}</span>
        ) : null}
      </td>
      <td className="tsr-col-created tsr-numeric">
        <Time iso={task.created_at} />
      </td>
    </tr>
  );
}

/** Cells n of m while it runs, the place in the queue while it waits, the reason when it ended badly. */
export function ProgressCell(props: { task: Task; plain?: boolean }): React.JSX.Element {
  const { trans, format } = useUi();
  const { task } = props;
  const { position, progress } = task;
  const reason = props.plain ? '' : reasonText(task.reasons[0]);
  if (position && task.phase === 'QUEUED') {
    const eta = position.eta_seconds_p50;
    return (
      <>
        {trans.__('Position %1', position.position)}
        {eta ? ` · ${format.about(eta)}` : ''}
        <span className="tsr-sub" title={reason}>
          {reason}
        </span>
      </>
    );
  }
  const total = progress.cells_total ?? 0;
  if (total > 0) {
    const label = trans.__('%1 of %2 cells', progress.cells_done, total);
    return (
      <>
        <span className="tsr-progress">
          <Bar label={label} value={progress.cells_done} max={total} />
          <span className="tsr-tabular">{label}</span>
        </span>
        {reason ? (
          <span className="tsr-sub" title={reason}>
            {reason}
          </span>
        ) : progress.note ? (
          <span className="tsr-sub">{progress.note}</span>
        ) : null}
      </>
    );
  }
  if (progress.address && !reason && !FINAL_PHASES.has(task.phase)) {
    return <code className="tsr-address">{progress.address}</code>;
  }
  return <span title={reason}>{reason || <span className="tsr-faint">—</span>}</span>;
}

/** Up and down move between rows, as in Lab's own lists. */
function moveFocus(event: React.KeyboardEvent<HTMLTableElement>): void {
  if (event.key !== 'ArrowDown' && event.key !== 'ArrowUp') {
    return;
  }
  const links = [...event.currentTarget.querySelectorAll<HTMLElement>('.tsr-row-link')];
  const row = (event.target as HTMLElement).closest('tr');
  const at = links.findIndex(link => link.closest('tr') === row);
  const next = links[event.key === 'ArrowDown' ? at + 1 : Math.max(0, at - 1)];
  if (next) {
    event.preventDefault();
    next.focus();
  }
}
