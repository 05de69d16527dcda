import { expect, test } from 'vitest';
import { accrued, totalRate } from '../src/accrual';
import { fromCron, looksLikeCron, toCron } from '../src/cron';
import { datasetChoices, missingAt } from '../src/datasets';
import { cardClasses, fromRequest, newDraft, serviceObstacle, toRequest } from '../src/draft';
import type { CardCapacity, TaskRequest } from '../src/types';
import { LogBuffer } from '../src/logbuffer';
import { measured } from '../src/measured';
import { joinLines } from '../src/multiline';
import { coerce, inputKind, inputText, readAssignments, readParameter } from '../src/parameters';
import { compact, toYaml } from '../src/yaml';
import { backoff, EventParser } from '../src/stream';
import type { ClusterCapacity, Dataset } from '../src/types';

test('a cost ticks exactly and never runs backwards', () => {
  const accrual = { micro: 5, nano_per_hour: 3_600_000_000, as_of: '2026-01-01T00:00:00Z' };
  const start = Date.parse(accrual.as_of);
  expect(accrued(accrual, start + 1000)).toBe(1005n);
  expect(accrued(accrual, start - 1000)).toBe(5n);
});

test('an event cut in two pieces arrives once, with its id', () => {
  const parser = new EventParser();
  expect(parser.push('id: 7\nevent: task\nda')).toEqual([]);
  expect(parser.push('ta: {}\n\n')).toEqual([{ event: 'task', data: '{}', id: '7' }]);
});

test('waiting between attempts doubles up to a quarter of a minute', () => {
  expect([0, 1, 9].map(attempt => backoff(attempt, () => 0.5))).toEqual([1000, 2000, 15_000]);
});

test('a log takes a repeated piece once, says when bytes are missing and stays bounded', () => {
  const log = new LogBuffer(2);
  log.append('a\nb', 0, 3);
  log.append('a\nb\nc', 0, 5);
  expect(log.lines).toEqual(['b', 'c']);
  expect(log.append('x', 99, 100)).toBe(false);
  // One wrong byte became a character of three.
  log.append('\n\ufffd', 5, 7);
  log.append('d', 7, 8);
  expect(log.lines).toEqual(['c', '\ufffdd']);
});

test('a parameter keeps its type or is refused', () => {
  expect(coerce('integer', '1.5')).toEqual({ ok: false, problem: 'integer' });
  expect(coerce('number', '1e-3')).toEqual({ ok: true, value: 0.001 });
  expect(coerce('text', '3')).toEqual({ ok: true, value: '3' });
});

test('a specification is shown as YAML that reads back as it was', () => {
  const spec = {
    name: 'my run',
    on: 'yes',
    n: 1,
    empty: null,
    roles: [{ name: 'main', cards: {} }],
    list: ['a: b']
  };
  expect(toYaml(compact(spec))).toBe(
    'name: my run\n"on": "yes"\n"n": 1\nroles:\n  - name: main\nlist:\n  - "a: b"\n'
  );
});

test('texts in lines become whole, lists in JSON stay lists', () => {
  const output = {
    output_type: 'display_data',
    metadata: {},
    data: { 'text/html': ['<p>', '</p>'], 'application/json': ['a', 'b'] }
  };
  const stream = { output_type: 'stream', name: 'stdout', text: ['a\n', 'b\n'] };
  const cell = { cell_type: 'code', source: ['x\n', 'y'], metadata: {}, outputs: [stream, output] };
  const joined = joinLines({ cells: [cell], metadata: {}, nbformat: 4, nbformat_minor: 5 }).cells[0];
  expect(joined?.source).toBe('x\ny');
  expect(joined?.outputs).toEqual([
    { ...stream, text: 'a\nb\n' },
    { ...output, data: { 'text/html': '<p></p>', 'application/json': ['a', 'b'] } }
  ]);
});

test('a rhythm and its cron expression say the same', () => {
  for (const cron of ['5 * * * *', '30 7 * * *', '0 18 * * 1-5', '15 9 * * 3']) {
    expect(toCron(fromCron(cron))).toBe(cron);
  }
  expect(fromCron('*/5 0 1 * *').rhythm).toBe('custom');
  expect(fromCron('0 9 * * 7').weekday).toBe(0);
  expect(['0 7 * * 1-5', '0 7 * *', 'every day'].map(looksLikeCron)).toEqual([true, false, false]);
});

test('parameters of a script are lines of name=value with the types of JSON', () => {
  expect(readAssignments('epochs=20\n\n name = a=b\nflag=true')).toEqual({
    values: { epochs: 20, name: 'a=b', flag: true },
    wrong: null
  });
  expect(readAssignments('epochs 20').wrong).toBe('epochs 20');
});

const at = (cluster: string, ...tenants: string[]): Dataset['places'][number] => ({
  cluster,
  tenants,
  workspaces: false
});
const OFFERED: Dataset[] = [
  {
    name: 'birds',
    description: 'Birds',
    clusters: ['a', 'b'],
    places: [at('a', 'red', 'blue'), at('b', 'red')]
  },
  { name: 'faces', description: '', clusters: ['b'], places: [at('b', 'red')] },
  { name: 'words', description: '', clusters: ['c'], places: [at('c', 'red')] }
];
const CLUSTERS = [
  { name: 'a', services: true },
  { name: 'b', services: false },
  { name: 'c', services: false }
] as ClusterCapacity[];

test('of the data sets only those can be added that the chosen cluster has, and the others say why', () => {
  const obstacles = (part: Partial<ReturnType<typeof newDraft>>, tenant = 'red'): Record<string, unknown> =>
    Object.fromEntries(
      datasetChoices({ ...newDraft('train.py'), ...part }, OFFERED, CLUSTERS, tenant).map(row => [
        row.name,
        row.obstacle?.kind ?? null
      ])
    );
  expect(obstacles({})).toEqual({ birds: null, faces: null, words: null });
  expect(obstacles({ clusters: ['b'] })).toEqual({ birds: null, faces: null, words: 'elsewhere' });
  expect(obstacles({ datasets: ['birds'] })).toEqual({ birds: null, faces: null, words: 'apart' });
  expect(obstacles({ kind: 'service' })).toEqual({ birds: null, faces: 'no-service', words: 'no-service' });
  expect(obstacles({}, 'blue')).toEqual({ birds: null });
  expect(obstacles({ datasets: ['faces', 'gone'] }, 'blue')).toEqual({
    birds: 'apart',
    faces: 'unknown',
    gone: 'unknown'
  });
  expect(missingAt('a', ['birds', 'faces'], OFFERED, 'red')).toBe('faces');
  expect(missingAt('b', ['birds', 'faces'], OFFERED, 'red')).toBeNull();
  expect(missingAt('b', ['birds'], OFFERED, 'blue')).toBe('birds');
});

test('only a script becomes a service, where a cluster keeps one running, with one part and its port', () => {
  const draft = newDraft('work/serve.py', { nodes: 3, framework: 'mpi', port: 9000, datasets: ['birds'] });
  expect(serviceObstacle(newDraft('a.ipynb'), CLUSTERS)).toBe('notebook');
  expect(serviceObstacle(draft, CLUSTERS.slice(1))).toBe('nowhere');
  expect(serviceObstacle({ ...draft, clusters: ['b'] }, CLUSTERS)).toBe('elsewhere');
  expect(serviceObstacle({ ...draft, clusters: ['a'] }, CLUSTERS)).toBeNull();
  expect(toRequest(draft).port).toBeUndefined();
  const asked = toRequest({ ...draft, kind: 'service' });
  expect([asked.kind, asked.port, asked.roles?.[0]?.replicas, asked.framework]).toEqual([
    'service',
    9000,
    1,
    'none'
  ]);
  expect(toRequest({ ...draft, kind: 'service', port: 80 }).port).toBeUndefined();
  const again = fromRequest(asked);
  expect([again.kind, again.port, again.datasets]).toEqual(['service', 9000, ['birds']]);
  expect(toRequest(newDraft('a.py')).datasets).toBeUndefined();
});

test('the rate is what the bill says, which knows more than the jobs that are loaded', () => {
  const at = (nano: number): Parameters<typeof totalRate>[0] => ({
    currency: 'CNY',
    micro: 0,
    nano_per_hour: nano,
    as_of: '2026-01-01T00:00:00Z'
  });
  expect(totalRate(at(9), [at(2)])).toBe(9);
  expect(totalRate(at(0), [at(2)])).toBe(0);
  expect(totalRate(null, [at(2), null, at(3)])).toBe(5);
});

test('a parameter that is left as it is has its default, and None is given by an empty text', () => {
  const seed = { name: 'seed', type: 'int', default: null, nullable: true };
  expect(readParameter(seed, inputText('integer', null))).toEqual({ ok: true, value: null });
  expect(readParameter(seed, '7')).toEqual({ ok: true, value: 7 });
  expect(readParameter({ ...seed, default: 3 }, ' ')).toEqual({ ok: true, value: null });
  expect(readParameter({ ...seed, default: 3, nullable: false }, '')).toEqual({
    ok: false,
    problem: 'integer'
  });
  const computed = { name: 'rate', type: 'float', default: null, nullable: false, source: '2 * 3' };
  expect(readParameter(computed, '')).toEqual({ ok: true, value: null });
  const any = { name: 'any', type: null, default: null, nullable: true };
  expect([inputKind(any), readParameter(any, '[1]')]).toEqual(['json', { ok: true, value: [1] }]);
});

test('a job that is repeated keeps what the dialog does not show', () => {
  const spec: TaskRequest = {
    name: 'train',
    kind: 'training',
    entry: 'train.py',
    inputs: { kind: 'snapshot', files: [{ path: 'train.py', sha256: '0'.repeat(64), size: 1, mode: 0o644 }] },
    priority: 7,
    preemptible: true,
    variables: { SEED: '7' },
    lifecycle: { max_run_seconds: 600, retries: 2, grace_seconds: 90 } as NonNullable<
      TaskRequest['lifecycle']
    >,
    labels: { 'workspace-path': 'work/train.py', project: 'x' },
    roles: [
      {
        name: 'head',
        replicas: 1,
        resources: {
          cpu_millicores: 500,
          memory_mib: 256,
          cards: { model: 'A100-80G', mode: 'mig', centi_cards: 14, memory_mib: 10240, max_cards: 1 }
        }
      },
      { name: 'workers', replicas: 3, resources: { cpu_millicores: 100, memory_mib: 128, cards: null } }
    ]
  };
  const again = toRequest({ ...fromRequest(spec), cpuMillicores: 800, retries: 0 });
  expect([again.priority, again.preemptible, again.variables]).toEqual([7, true, { SEED: '7' }]);
  expect(again.lifecycle).toEqual({ max_run_seconds: 600, retries: 0, grace_seconds: 90 });
  expect(again.labels).toEqual({ 'workspace-path': 'work/train.py', project: 'x' });
  expect(again.roles?.[0]).toEqual({
    name: 'head',
    replicas: 1,
    resources: { cpu_millicores: 800, memory_mib: 256, cards: spec.roles?.[0]?.resources?.cards }
  });
  expect(again.roles?.[1]).toEqual(spec.roles?.[1]);
  expect(again.inputs).toBeUndefined();
  expect(fromRequest(spec).include).toBe('notebook');
  const chosen = toRequest({ ...fromRequest(spec), include: ['work/train.py'] });
  expect(fromRequest({ ...spec, labels: chosen.labels }).include).toEqual(['work/train.py']);
  expect(toRequest({ ...fromRequest({ ...spec, labels: chosen.labels }), include: 'folder' }).labels).toEqual(
    again.labels
  );
  const whole = toRequest({ ...fromRequest(spec), compute: 'whole', wholeCards: 2 });
  expect(whole.roles?.[0]?.resources?.cards).toMatchObject({ mode: 'whole', centi_cards: 200, max_cards: 2 });
});

test('a class of cards is offered in the ways in which it is handed out, and partitions are none of them', () => {
  const card = { vendor: 'nvidia', memory_mib: 81_920, free_centi_cards: 100, whole_cards_free: 1 };
  const pool = (card_class: string, modes: string[], more = {}): CardCapacity => ({
    ...card,
    card_class,
    modes,
    total_centi_cards: 200,
    largest_share_centi_cards: 100,
    nano_per_card_hour: null,
    nano_per_mib_hour: null,
    ...more
  });
  const partition = { centi_cards: 14, memory_mib: 10_240 };
  const clusters = [
    {
      cards: [pool('A100-80G', ['whole']), pool('A100-80G', ['mig'], { partition, total_centi_cards: 700 })]
    },
    {
      cards: [
        pool('A100-80G', ['vcuda', 'whole']),
        pool('H100-80G', ['mig'], { partition }),
        pool('T4-16G', ['vcuda'])
      ]
    }
  ];
  const told = (mode: 'vcuda' | 'whole'): unknown[] =>
    cardClasses(clusters, mode).map(one => [one.card_class, one.total_centi_cards]);
  expect(told('whole')).toEqual([['A100-80G', 400]]);
  expect(told('vcuda')).toEqual([
    ['A100-80G', 200],
    ['T4-16G', 200]
  ]);
});

test('what a run used is summed by how long each sample stands for', () => {
  const sample = (at: string, cpu: number, memory: number): Parameters<typeof measured>[0][number] => ({
    run_id: 'r',
    at: `2026-01-01T00:${at}Z`,
    cpu_millicores: cpu,
    memory_mib: memory
  });
  expect(measured([], null)).toBeNull();
  expect(measured([sample('00:30', 2000, 100), sample('01:30', 500, 400)], '2026-01-01T00:00:00Z')).toEqual({
    millicoreSeconds: 90_000,
    seconds: 90,
    mostMillicores: 2000,
    mostMemoryMib: 400,
    memoryMib: 300
  });
  // A clock that went back adds nothing.
  expect(measured([sample('01:00', 1000, 8), sample('00:10', 1000, 8)], null)?.seconds).toBe(0);
});
