/** Which data sets a job can read together, and at which clusters. */
import type { IDraft } from './draft';
import type { ClusterCapacity, Dataset } from './types';

/** What a data set's row is made of; one that is chosen and not offered any more has no clusters. */
export interface IDatasetChoice {
  name: string;
  description: string;
  /** Clusters where the tenant may read it. */
  clusters: string[];
  chosen: boolean;
  obstacle: Obstacle | null;
}

/** Why a data set cannot be added to the draft. */
export type Obstacle =
  /** Nobody offers it to this tenant. */
  | { kind: 'unknown' }
  /** The chosen cluster does not have it. */
  | { kind: 'elsewhere'; cluster: string }
  /** Where it is no service is kept running. */
  | { kind: 'no-service' }
  /** No cluster has it together with another that is chosen. */
  | { kind: 'apart'; other: string };

function readableAt(dataset: Dataset | undefined, tenant: string): string[] {
  return (dataset?.places ?? []).filter(place => place.tenants.includes(tenant)).map(place => place.cluster);
}

/** The rows of the dialog for one tenant: what it may read, and what is chosen although it may not be read. */
export function datasetChoices(
  draft: Pick<IDraft, 'datasets' | 'clusters' | 'kind'>,
  offered: readonly Dataset[],
  clusters: readonly ClusterCapacity[],
  tenant: string
): IDatasetChoice[] {
  const known = new Map(offered.map(dataset => [dataset.name, readableAt(dataset, tenant)]));
  const serving = clusters.filter(cluster => cluster.services).map(cluster => cluster.name);
  const obstacle = (name: string): Obstacle | null => {
    let left = known.get(name) ?? [];
    if (left.length === 0) {
      return { kind: 'unknown' };
    }
    const [chosen] = draft.clusters ?? [];
    if (chosen !== undefined) {
      return left.includes(chosen) ? null : { kind: 'elsewhere', cluster: chosen };
    }
    if (draft.kind === 'service') {
      left = left.filter(cluster => serving.includes(cluster));
      if (left.length === 0) {
        return { kind: 'no-service' };
      }
    }
    for (const other of draft.datasets) {
      left = left.filter(cluster => known.get(other)?.includes(cluster));
      if (left.length === 0) {
        return { kind: 'apart', other };
      }
    }
    return null;
  };
  const names = [...known.keys()].filter(name => known.get(name)?.length || draft.datasets.includes(name));
  return [...names, ...draft.datasets.filter(name => !known.has(name))].map(name => ({
    name,
    description: offered.find(dataset => dataset.name === name)?.description ?? '',
    clusters: known.get(name) ?? [],
    chosen: draft.datasets.includes(name),
    obstacle: obstacle(name)
  }));
}

/** The first chosen data set that the tenant cannot read at a cluster; null if it has them all. */
export function missingAt(
  cluster: string,
  chosen: readonly string[],
  offered: readonly Dataset[],
  tenant: string
): string | null {
  return (
    chosen.find(
      name =>
        !readableAt(
          offered.find(dataset => dataset.name === name),
          tenant
        ).includes(cluster)
    ) ?? null
  );
}
