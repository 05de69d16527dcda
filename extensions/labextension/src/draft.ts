/** The submit dialog's choices, and the specification made of them. */
import { EVERY_DAY, fromCron, toCron, type IRecurrence } from './cron';
import type { CardCapacity, Framework, Include, Json, TaskKind, TaskRequest } from './types';

export type Compute = 'cpu' | 'share' | 'whole';

export interface IDraft {
  path: string;
  name: string;
  kind: TaskKind;
  /** Where a service listens, as typed; null: where it listens by default. */
  port: number | null;
  include: Include;
  environment: string;
  kernel: string | null;
  parameters: Record<string, Json>;
  clusters: string[] | null;
  tenant: string | null;
  queue: string | null;
  policy: string | null;
  /** Names of the data sets that it reads. */
  datasets: string[];
  cpuMillicores: number;
  memoryMib: number;
  compute: Compute;
  cardModel: string | null;
  /** Hundredths of a card, of a share. */
  shareCentiCards: number;
  shareMemoryMib: number | null;
  wholeCards: number;
  /** Equal parts of a script, each with the resources above. */
  nodes: number;
  framework: Framework;
  when: 'now' | 'later' | 'again';
  /** Local time as a `datetime-local` input holds it. */
  startAt: string;
  recurrence: IRecurrence;
  /** IANA name of the zone in which a recurring job is due. */
  timeZone: string;
  maxRunSeconds: number | null;
  retries: number;
  outputFolder: string | null;
  /** The specification that is repeated: what the dialog does not show of it stays as it was. */
  base: TaskRequest | null;
}

/** Label that remembers where in the workspace a job's file lies. */
export const PATH_LABEL = 'workspace-path';
/** Label of a job whose files were chosen one by one: what it took of its folder is all that it shall take again. */
export const FILES_LABEL = 'workspace-files';
const CHOSEN = 'chosen';

export function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

export function folderOf(path: string): string {
  const slash = path.lastIndexOf('/');
  return slash < 0 ? '' : path.slice(0, slash);
}

export function kindOf(path: string): TaskKind | null {
  if (path.endsWith('.ipynb')) {
    return 'notebook';
  }
  return /\.(py|sh)$/.test(path) ? 'script' : null;
}

/** Where a service listens that names no port. */
export const DEFAULT_PORT = 8080;
export const LOWEST_PORT = 1024;
export const HIGHEST_PORT = 65_535;

export function isPort(value: number): boolean {
  return Number.isInteger(value) && value >= LOWEST_PORT && value <= HIGHEST_PORT;
}

/** Why a draft cannot be a service: its file is a notebook, no cluster keeps one running, or the chosen one does not. */
export function serviceObstacle(
  draft: Pick<IDraft, 'path' | 'clusters'>,
  clusters: readonly { name: string; services?: boolean }[]
): 'notebook' | 'nowhere' | 'elsewhere' | null {
  if (kindOf(draft.path) === 'notebook') {
    return 'notebook';
  }
  const able = clusters.filter(cluster => cluster.services);
  if (able.length === 0) {
    return 'nowhere';
  }
  const [chosen] = draft.clusters ?? [];
  return chosen === undefined || able.some(cluster => cluster.name === chosen) ? null : 'elsewhere';
}

/** The folder of the workspace in which the Lab server places a job's files; null for a job from elsewhere. */
export function placedFolder(task: { id: string; spec: TaskRequest }): string | null {
  const path = task.spec.labels?.[PATH_LABEL];
  if (!path) {
    return null;
  }
  const base = task.spec.output_folder ?? folderOf(path);
  const stem = baseName(path).replace(/\.[^.]+$/, '');
  return `${base ? `${base}/` : ''}${stem}-runs/${task.id.slice(0, 8)}`;
}

export function newDraft(path: string, start: Partial<IDraft> = {}): IDraft {
  return {
    path,
    name: baseName(path).replace(/\.[^.]+$/, ''),
    kind: kindOf(path) ?? 'script',
    port: null,
    include: 'notebook',
    environment: 'default',
    kernel: null,
    parameters: {},
    clusters: null,
    tenant: null,
    queue: null,
    policy: null,
    datasets: [],
    cpuMillicores: 1000,
    memoryMib: 2048,
    compute: 'cpu',
    cardModel: null,
    shareCentiCards: 50,
    shareMemoryMib: null,
    wholeCards: 1,
    nodes: 1,
    framework: 'none',
    when: 'now',
    startAt: '',
    recurrence: EVERY_DAY,
    timeZone: Intl.DateTimeFormat().resolvedOptions().timeZone,
    maxRunSeconds: null,
    retries: 0,
    outputFolder: null,
    base: null,
    ...start
  };
}

/** The specification of the draft. `inputs` is filled by the server extension, which makes the snapshot. */
export function toRequest(draft: IDraft): TaskRequest {
  const { base } = draft;
  const asked = {
    inputs: undefined,
    schedule: undefined,
    port: undefined,
    datasets: undefined,
    lifecycle: undefined
  };
  const [first, ...others] = base?.roles ?? [];
  const cards =
    base !== null && sameCards(draft, fromRequest(base))
      ? (first?.resources?.cards ?? null)
      : draft.compute === 'cpu'
        ? null
        : draft.compute === 'share'
          ? {
              model: draft.cardModel,
              mode: 'vcuda' as const,
              centi_cards: draft.shareCentiCards,
              memory_mib: draft.shareMemoryMib,
              max_cards: 1
            }
          : {
              model: draft.cardModel,
              mode: 'whole' as const,
              centi_cards: draft.wholeCards * 100,
              max_cards: draft.wholeCards
            };
  const service = draft.kind === 'service';
  const request: TaskRequest = {
    ...base,
    ...asked,
    name: draft.name.trim(),
    kind: draft.kind,
    tenant: draft.tenant,
    queue: draft.queue,
    policy: draft.policy,
    clusters: draft.clusters,
    environment: draft.environment,
    entry: baseName(draft.path),
    kernel: draft.kernel,
    parameters: draft.parameters,
    output_folder: draft.outputFolder,
    framework: service ? 'none' : draft.framework,
    roles: [
      {
        name: 'main',
        ...first,
        replicas: service ? 1 : draft.nodes,
        resources: {
          ...first?.resources,
          cpu_millicores: draft.cpuMillicores,
          memory_mib: draft.memoryMib,
          cards
        }
      },
      ...others
    ],
    labels: labelsOf(draft)
  };
  if (service && draft.port !== null && isPort(draft.port)) {
    request.port = draft.port;
  }
  if (draft.datasets.length > 0) {
    request.datasets = draft.datasets;
  }
  if (base?.lifecycle || draft.maxRunSeconds !== null || draft.retries > 0) {
    request.lifecycle = {
      ...base?.lifecycle,
      max_run_seconds: draft.maxRunSeconds,
      retries: draft.retries
    } as NonNullable<TaskRequest['lifecycle']>;
  }
  if (draft.when === 'later' && draft.startAt) {
    request.schedule = { at: new Date(draft.startAt).toISOString(), time_zone: 'UTC' };
  } else if (draft.when === 'again') {
    request.schedule = { cron: toCron(draft.recurrence), time_zone: draft.timeZone };
  }
  return request;
}

function labelsOf(draft: IDraft): Record<string, string> {
  const labels: Record<string, string> = { ...draft.base?.labels, [PATH_LABEL]: draft.path };
  if (Array.isArray(draft.include)) {
    labels[FILES_LABEL] = CHOSEN;
  } else {
    Reflect.deleteProperty(labels, FILES_LABEL);
  }
  return labels;
}

/** Which files of the workspace a submitted specification took with it. */
function includeOf(spec: TaskRequest, path: string): Include {
  const files = spec.inputs?.files ?? [];
  if (spec.labels?.[FILES_LABEL] === CHOSEN) {
    const folder = folderOf(path);
    return files.map(file => (folder ? `${folder}/${file.path}` : file.path));
  }
  return files.length > 1 ? 'folder' : 'notebook';
}

/** Whether two drafts ask for the same cards. */
function sameCards(one: IDraft, other: IDraft): boolean {
  return (['compute', 'cardModel', 'shareCentiCards', 'shareMemoryMib', 'wholeCards'] as const).every(
    field => one[field] === other[field]
  );
}

/** A draft that repeats a submitted specification. */
export function fromRequest(spec: TaskRequest): IDraft {
  const draft = newDraft(spec.labels?.[PATH_LABEL] ?? spec.entry ?? '');
  const resources = spec.roles?.[0]?.resources;
  const cards = resources?.cards;
  const share = cards !== null && cards !== undefined && cards.mode !== 'whole';
  return {
    ...draft,
    name: spec.name,
    kind: spec.kind,
    port: spec.port ?? null,
    base: spec,
    include: includeOf(spec, draft.path),
    environment: spec.environment ?? draft.environment,
    kernel: spec.kernel ?? null,
    parameters: (spec.parameters ?? {}) as Record<string, Json>,
    clusters: spec.clusters ?? null,
    tenant: spec.tenant ?? null,
    queue: spec.queue ?? null,
    policy: spec.policy ?? null,
    datasets: spec.datasets ?? [],
    cpuMillicores: resources?.cpu_millicores ?? draft.cpuMillicores,
    memoryMib: resources?.memory_mib ?? draft.memoryMib,
    compute: !cards ? 'cpu' : share ? 'share' : 'whole',
    cardModel: cards?.model ?? null,
    shareCentiCards: share ? cards.centi_cards : draft.shareCentiCards,
    shareMemoryMib: share ? (cards.memory_mib ?? null) : null,
    wholeCards: cards && !share ? Math.max(1, cards.centi_cards / 100) : 1,
    nodes: spec.roles?.[0]?.replicas ?? 1,
    framework: spec.framework ?? 'none',
    maxRunSeconds: spec.lifecycle?.max_run_seconds ?? null,
    retries: spec.lifecycle?.retries ?? 0,
    outputFolder: spec.output_folder ?? null,
    ...(spec.schedule?.cron
      ? {
          when: 'again' as const,
          recurrence: fromCron(spec.schedule.cron),
          timeZone: spec.schedule.time_zone
        }
      : {})
  };
}

/** What the draft asks for, by dimension, over all its nodes. */
export function askedFor(draft: IDraft): Record<string, number> {
  const nodes = draft.kind === 'service' ? 1 : draft.nodes;
  const asked: Record<string, number> = {
    cpu: draft.cpuMillicores * nodes,
    memory: draft.memoryMib * nodes
  };
  if (draft.compute !== 'cpu' && draft.cardModel) {
    asked[`cards/${draft.cardModel}`] =
      (draft.compute === 'share' ? draft.shareCentiCards : draft.wholeCards * 100) * nodes;
  }
  return asked;
}

/** Cards that are handed out in this way, by class: what is free in sum, and the largest share that one card can still give. */
export function cardClasses(
  clusters: readonly { cards: CardCapacity[] }[],
  mode: 'vcuda' | 'whole'
): CardCapacity[] {
  const classes = new Map<string, CardCapacity>();
  const cards = clusters.flatMap(cluster => cluster.cards);
  for (const card of cards.filter(one => !one.partition && one.modes.includes(mode))) {
    const known = classes.get(card.card_class);
    classes.set(
      card.card_class,
      known
        ? {
            ...known,
            total_centi_cards: known.total_centi_cards + card.total_centi_cards,
            free_centi_cards: known.free_centi_cards + card.free_centi_cards,
            whole_cards_free: known.whole_cards_free + card.whole_cards_free,
            largest_share_centi_cards: Math.max(
              known.largest_share_centi_cards,
              card.largest_share_centi_cards
            ),
            modes: [...new Set([...known.modes, ...card.modes])]
          }
        : card
    );
  }
  return [...classes.values()];
}
