/** Typed inputs for the values of a notebook's parameters cell. */
import type { INotebookParameter, Json } from './types';

export type InputKind = 'integer' | 'number' | 'boolean' | 'text' | 'json';

export type Coerced = { ok: true; value: Json } | { ok: false; problem: 'integer' | 'number' | 'json' };

/** Which input edits this parameter; the default decides where the type says nothing. */
export function inputKind(parameter: INotebookParameter): InputKind {
  const { type } = parameter;
  if (type === 'bool') {
    return 'boolean';
  }
  if (type === 'int') {
    return 'integer';
  }
  if (type === 'float') {
    return 'number';
  }
  if (type === 'str') {
    return 'text';
  }
  const value = parameter.default;
  if (typeof value === 'boolean') {
    return 'boolean';
  }
  if (typeof value === 'number') {
    return Number.isInteger(value) ? 'integer' : 'number';
  }
  return typeof value === 'string' ? 'text' : 'json';
}

/** Text that the input of this kind shows for a value. */
export function inputText(kind: InputKind, value: Json): string {
  if (kind === 'json') {
    return JSON.stringify(value);
  }
  if (value === null) {
    return '';
  }
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** The value a text stands for, of the kind's type. An integer must be written as one and be exact. */
export function coerce(kind: InputKind, text: string): Coerced {
  const trimmed = text.trim();
  switch (kind) {
    case 'boolean':
      return { ok: true, value: trimmed === 'true' };
    case 'text':
      return { ok: true, value: text };
    case 'integer': {
      const plain = trimmed.replace(/_/g, '');
      const value = Number(plain);
      return /^[+-]?\d+$/.test(plain) && Number.isSafeInteger(value)
        ? { ok: true, value }
        : { ok: false, problem: 'integer' };
    }
    case 'number': {
      const plain = trimmed.replace(/_/g, '');
      const value = Number(plain);
      return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(plain) && Number.isFinite(value)
        ? { ok: true, value }
        : { ok: false, problem: 'number' };
    }
    case 'json':
      try {
        return { ok: true, value: JSON.parse(text) as Json };
      } catch {
        return { ok: false, problem: 'json' };
      }
  }
}

/** The value a text stands for, given to this parameter: left as it is, it is the default, although that may have no text. */
export function readParameter(parameter: INotebookParameter, text: string): Coerced {
  const kind = inputKind(parameter);
  if (text === inputText(kind, parameter.default)) {
    return { ok: true, value: parameter.default };
  }
  return parameter.nullable && text.trim() === '' ? { ok: true, value: null } : coerce(kind, text);
}

/** Whether two values are the same JSON; used to send only what differs from the notebook. */
export function sameJson(a: Json, b: Json): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Lines of `name=value`; what reads as JSON is of its type, everything else is text. */
export function readAssignments(text: string): { values: Record<string, Json>; wrong: string | null } {
  const values: Record<string, Json> = {};
  for (const line of text.split('\n')) {
    if (line.trim() === '') {
      continue;
    }
    const match = /^\s*([A-Za-z_]\w*)\s*=(.*)$/.exec(line);
    if (!match) {
      return { values, wrong: line.trim() };
    }
    const [, name = '', raw = ''] = match;
    const parsed = coerce('json', raw);
    values[name] = parsed.ok ? parsed.value : raw.trim();
  }
  return { values, wrong: null };
}

export function writeAssignments(values: Record<string, Json>): string {
  return Object.entries(values)
    .map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join('\n');
}
