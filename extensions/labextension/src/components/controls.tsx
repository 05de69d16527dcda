/** Small parts shared by the dialog, the panels and the table. */
import { Clipboard } from '@jupyterlab/apputils';
import * as React from 'react';
import { problemOf } from '../problem';
import { useUi } from './context';
import { reasonText } from './phase';

export function Field(props: {
  label: string;
  hint?: React.ReactNode;
  error?: string | null;
  wide?: boolean;
  children: (id: string, describedBy: string | undefined) => React.ReactNode;
}): React.JSX.Element {
  const id = React.useId();
  const note = props.error ?? props.hint;
  return (
    <div className={`tsr-field${props.wide ? ' tsr-mod-wide' : ''}${props.error ? ' tsr-mod-error' : ''}`}>
      <label htmlFor={id}>{props.label}</label>
      {props.children(id, note ? `${id}-note` : undefined)}
      {note ? (
        <div id={`${id}-note`} className="tsr-note">
          {note}
        </div>
      ) : null}
    </div>
  );
}

export interface IOption<T extends string> {
  value: T;
  label: string;
  disabled?: boolean;
  title?: string;
}

export function Select<T extends string>(props: {
  id?: string;
  describedBy?: string;
  value: T;
  options: IOption<T>[];
  label?: string;
  onChange: (value: T) => void;
}): React.JSX.Element {
  return (
    <select
      id={props.id}
      aria-describedby={props.describedBy}
      className="tsr-input tsr-select"
      aria-label={props.label}
      value={props.value}
      onChange={event => {
        props.onChange(event.target.value as T);
      }}
    >
      {props.options.map(option => (
        <option key={option.value} value={option.value} disabled={option.disabled} title={option.title}>
          {option.label}
        </option>
      ))}
    </select>
  );
}

/** Exclusive choice side by side; a native radio group, so arrow keys work. */
export function Segments<T extends string>(props: {
  label: string;
  value: T;
  options: IOption<T>[];
  onChange: (value: T) => void;
}): React.JSX.Element {
  const name = React.useId();
  return (
    <div className="tsr-segments" role="radiogroup" aria-label={props.label}>
      {props.options.map(option => (
        <label
          key={option.value}
          title={option.title}
          className={`${props.value === option.value ? 'tsr-mod-on' : ''}${option.disabled ? ' tsr-mod-off' : ''}`}
        >
          <input
            type="radio"
            name={name}
            checked={props.value === option.value}
            disabled={option.disabled}
            onChange={() => {
              props.onChange(option.value);
            }}
          />
          <span>{option.label}</span>
        </label>
      ))}
    </div>
  );
}

/** A number with a slider beside it; what is typed is taken when it is within bounds. */
export function SliderNumber(props: {
  id?: string;
  describedBy?: string;
  label: string;
  value: number;
  min: number;
  max: number;
  step: number;
  unit: string;
  onChange: (value: number) => void;
}): React.JSX.Element {
  const [text, setText] = React.useState<string | null>(null);
  const take = (raw: string): void => {
    const value = Number(raw);
    if (raw.trim() !== '' && Number.isFinite(value) && value >= props.min && value <= props.max) {
      props.onChange(value);
    }
  };
  const range = props.max - props.min;
  const filled = range > 0 ? ((Math.min(props.value, props.max) - props.min) / range) * 100 : 0;
  return (
    <div className="tsr-slider">
      <input
        type="range"
        aria-label={props.label}
        min={props.min}
        max={props.max}
        step={props.step}
        value={props.value}
        style={{ '--tsr-filled': `${filled}%` } as React.CSSProperties}
        onChange={event => {
          setText(null);
          take(event.target.value);
        }}
      />
      <span className="tsr-number">
        <input
          id={props.id}
          aria-describedby={props.describedBy}
          className="tsr-input"
          type="number"
          min={props.min}
          max={props.max}
          step={props.step}
          value={text ?? props.value}
          onChange={event => {
            setText(event.target.value);
            take(event.target.value);
          }}
          onBlur={() => {
            setText(null);
          }}
        />
        <span className="tsr-unit">{props.unit}</span>
      </span>
    </div>
  );
}

/** A bar with this person's part and everybody else's; the numbers stand beside it. */
export function Bar(props: {
  label: string;
  value: number;
  part?: number;
  max: number;
  tone?: 'normal' | 'warning' | 'over';
}): React.JSX.Element {
  const width = (amount: number): string =>
    props.max > 0 ? `${Math.min(100, Math.max(0, (amount / props.max) * 100))}%` : '0%';
  return (
    <div
      className={`tsr-bar tsr-mod-${props.tone ?? 'normal'}`}
      role="meter"
      aria-label={props.label}
      aria-valuemin={0}
      aria-valuemax={props.max}
      aria-valuenow={Math.min(props.value, props.max)}
    >
      <span className="tsr-bar-all" style={{ width: width(props.value) }} />
      {props.part !== undefined ? (
        <span className="tsr-bar-part" style={{ width: width(props.part) }} />
      ) : null}
    </div>
  );
}

/** What happened, what to do, and every reason the service gave. */
export function ProblemNote(props: { error: unknown; onRetry?: () => void }): React.JSX.Element {
  const { trans } = useUi();
  const { problem, message, status } = problemOf(props.error);
  return (
    <div className="tsr-problem" role="alert">
      <strong>{status === 0 ? trans.__('The service does not answer') : message}</strong>
      {status === 0 ? <p>{trans.__('Your input is kept. Check the network and try again.')}</p> : null}
      {problem.hint && !problem.errors?.length ? <p>{problem.hint}</p> : null}
      {problem.errors?.length || problem.reasons?.length ? (
        <ul>
          {problem.errors?.map((error, index) => (
            <li key={`e${index}`}>
              {error.field ? <code>{error.field}</code> : null} {error.message}
            </li>
          ))}
          {problem.reasons?.map((reason, index) => (
            <li key={`r${index}`}>{reasonText(reason)}</li>
          ))}
        </ul>
      ) : null}
      {props.onRetry ? (
        <button type="button" className="tsr-button" onClick={props.onRetry}>
          {trans.__('Try again')}
        </button>
      ) : null}
    </div>
  );
}

export function Loading(props: { rows?: number }): React.JSX.Element {
  const { trans } = useUi();
  return (
    <div className="tsr-loading" role="status" aria-label={trans.__('Loading')}>
      {Array.from({ length: props.rows ?? 4 }, (_, index) => (
        <span key={index} style={{ width: `${90 - index * 13}%` }} />
      ))}
    </div>
  );
}

/** Text to read and to take along. */
export function CodeBlock(props: { label: string; text: string }): React.JSX.Element {
  const { trans } = useUi();
  const [copied, setCopied] = React.useState(false);
  React.useEffect(() => {
    setCopied(false);
  }, [props.text]);
  return (
    <div className="tsr-code">
      <button
        type="button"
        className="tsr-button"
        onClick={() => {
          Clipboard.copyToSystem(props.text);
          setCopied(true);
        }}
      >
        {copied ? trans.__('Copied') : trans.__('Copy')}
      </button>
      <pre tabIndex={0} aria-label={props.label}>
        {props.text}
      </pre>
    </div>
  );
}

/** Time in the viewer's zone, UTC in the tooltip. */
export function Time(props: { iso: string; seconds?: boolean }): React.JSX.Element {
  const { format } = useUi();
  return (
    <time dateTime={props.iso} title={format.utc(props.iso)}>
      {format.time(props.iso, props.seconds)}
    </time>
  );
}

/** Says changes politely, at most every five seconds. */
export function Announce(props: { text: string }): React.JSX.Element {
  const [said, setSaid] = React.useState(props.text);
  const last = React.useRef(0);
  React.useEffect(() => {
    const wait = Math.max(0, last.current + 5000 - Date.now());
    const timer = setTimeout(() => {
      last.current = Date.now();
      setSaid(props.text);
    }, wait);
    return () => {
      clearTimeout(timer);
    };
  }, [props.text]);
  return (
    <div className="tsr-announce" aria-live="polite">
      {said}
    </div>
  );
}
