/** Live output with search and wrap; the view follows the end until the person scrolls away from it. */
import * as React from 'react';
import { searchLines, type LogBuffer } from '../logbuffer';
import { useUi } from './context';

const CHUNK = 200;

export function LogView(props: { log: LogBuffer; version: number; final: boolean }): React.JSX.Element {
  const { trans, format } = useUi();
  const { log } = props;
  const [query, setQuery] = React.useState('');
  const [wrap, setWrap] = React.useState(true);
  const [following, setFollowing] = React.useState(true);
  const [current, setCurrent] = React.useState(0);
  const view = React.useRef<HTMLDivElement>(null);
  const lines = log.lines;
  const hits = React.useMemo(() => searchLines(lines, query), [lines, query]);
  const at = hits.length > 0 ? Math.min(current, hits.length - 1) : 0;
  const hit = hits[at];

  React.useEffect(() => {
    const element = view.current;
    if (element && following && !query) {
      element.scrollTop = element.scrollHeight;
    }
  }, [props.version, following, query, wrap]);
  React.useEffect(() => {
    if (hit !== undefined) {
      view.current?.querySelector(`[data-line="${hit}"]`)?.scrollIntoView({ block: 'center' });
    }
  }, [hit]);

  const step = (by: number): void => {
    setCurrent((at + by + hits.length) % Math.max(1, hits.length));
  };
  const chunks: number[] = [];
  for (let start = 0; start < lines.length; start += CHUNK) {
    chunks.push(start);
  }
  return (
    <div className="tsr-log">
      <div className="tsr-toolbar">
        <input
          type="search"
          className="tsr-input tsr-search"
          aria-label={trans.__('Search the output')}
          placeholder={trans.__('Search the output')}
          value={query}
          onChange={event => {
            setQuery(event.target.value);
            setCurrent(0);
          }}
          onKeyDown={event => {
            if (event.key === 'Enter') {
              step(event.shiftKey ? -1 : 1);
            }
          }}
        />
        {query ? (
          <>
            <span className="tsr-tabular" role="status">
              {hits.length > 0
                ? trans.__('%1 of %2', format.number(at + 1), format.number(hits.length))
                : trans.__('Not found')}
            </span>
            <button
              type="button"
              className="tsr-icon-button"
              aria-label={trans.__('Previous')}
              disabled={hits.length === 0}
              onClick={() => {
                step(-1);
              }}
            >
              ↑
            </button>
            <button
              type="button"
              className="tsr-icon-button"
              aria-label={trans.__('Next')}
              disabled={hits.length === 0}
              onClick={() => {
                step(1);
              }}
            >
              ↓
            </button>
          </>
        ) : null}
        <span className="tsr-gap" />
        <label className="tsr-check-label">
          <input
            type="checkbox"
            checked={wrap}
            onChange={event => {
              setWrap(event.target.checked);
            }}
          />
          {trans.__('Wrap lines')}
        </label>
        <label className="tsr-check-label">
          <input
            type="checkbox"
            checked={following}
            onChange={event => {
              setFollowing(event.target.checked);
            }}
          />
          {trans.__('Follow the end')}
        </label>
      </div>
      <div
        ref={view}
        className={`tsr-log-lines${wrap ? ' tsr-mod-wrap' : ''}`}
        role="log"
        aria-live="off"
        aria-label={trans.__('Output')}
        tabIndex={0}
        onScroll={event => {
          const { scrollTop, scrollHeight, clientHeight } = event.currentTarget;
          setFollowing(scrollHeight - scrollTop - clientHeight < 24);
        }}
      >
        {log.dropped > 0 ? (
          <div className="tsr-log-note">
            {trans._n(
              '%2 earlier line is not kept here',
              '%2 earlier lines are not kept here',
              log.dropped,
              format.number(log.dropped)
            )}
          </div>
        ) : null}
        {lines.length === 0 ? (
          <div className="tsr-log-note">
            {props.final
              ? trans.__('The job wrote nothing.')
              : trans.__('No output yet. It appears here as it is written.')}
          </div>
        ) : null}
        {chunks.map(start => (
          <Chunk
            key={start + log.dropped}
            start={start}
            text={lines.slice(start, start + CHUNK).join('\n')}
            query={query}
            hit={hit !== undefined && hit >= start && hit < start + CHUNK ? hit : -1}
          />
        ))}
      </div>
    </div>
  );
}

/** Lines in blocks, so that a new line draws only the last one again. */
const Chunk = React.memo(function Chunk(props: { start: number; text: string; query: string; hit: number }) {
  return (
    <div className="tsr-log-chunk">
      {props.text.split('\n').map((line, index) => {
        const number = props.start + index;
        return (
          <div key={index} data-line={number} className={number === props.hit ? 'tsr-mod-hit' : ''}>
            {props.query ? mark(line, props.query) : line || ' '}
          </div>
        );
      })}
    </div>
  );
});

function mark(line: string, query: string): React.ReactNode {
  const parts: React.ReactNode[] = [];
  const lower = line.toLowerCase();
  const wanted = query.toLowerCase();
  let from = 0;
  for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
    parts.push(line.slice(from, at), <mark key={at}>{line.slice(at, at + wanted.length)}</mark>);
    from = at + wanted.length;
  }
  parts.push(line.slice(from));
  return parts.length > 1 ? parts : line || ' ';
}
