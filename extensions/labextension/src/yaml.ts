/** JSON values as YAML, in the block style in which people write specifications. */
import type { Json } from './types';

/** A text that YAML reads as itself without quotes. */
const PLAIN = /^[A-Za-z_/][\w./@+-]*(?: [\w./@+-]+)*$/;
/** Plain texts that YAML 1.1 or 1.2 takes for another type. */
const TAKEN = /^(?:y|n|yes|no|on|off|true|false|null|~)$/i;

function scalar(value: string | number | boolean | null): string {
  if (typeof value !== 'string') {
    return String(value);
  }
  return PLAIN.test(value) && !TAKEN.test(value) ? value : JSON.stringify(value);
}

function isEmpty(value: Json): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length === 0;
}

function inline(value: Json): string | null {
  if (value === null || typeof value !== 'object') {
    return scalar(value);
  }
  return isEmpty(value) ? (Array.isArray(value) ? '[]' : '{}') : null;
}

function lines(value: Json): string[] {
  const text = inline(value);
  if (text !== null) {
    return [text];
  }
  if (Array.isArray(value)) {
    return value.flatMap(item => lines(item).map((line, index) => (index === 0 ? '- ' : '  ') + line));
  }
  return Object.entries(value as Record<string, Json>).flatMap(([key, item]) => {
    const short = inline(item);
    return short === null
      ? [`${scalar(key)}:`, ...lines(item).map(line => `  ${line}`)]
      : [`${scalar(key)}: ${short}`];
  });
}

export function toYaml(value: Json): string {
  return `${lines(value).join('\n')}\n`;
}

/** A copy without nulls and empty lists and objects, which say nothing in a specification. */
export function compact(value: Json): Json {
  if (Array.isArray(value)) {
    return value.map(compact);
  }
  if (value === null || typeof value !== 'object') {
    return value;
  }
  const kept = Object.entries(value).flatMap(([key, item]): [string, Json][] => {
    const short = compact(item);
    return short === null || isEmpty(short) ? [] : [[key, short]];
  });
  return Object.fromEntries(kept);
}
