/** *Data sets* that the job reads: those of the tenant, each with where it is and where the job finds it. */
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import { datasetChoices, type Obstacle } from '../datasets';
import type { Dataset } from '../types';
import { useModel, useUi, type Loaded } from './context';
import { Loading, ProblemNote } from './controls';
import { useTenant, type ISectionProps } from './dialogstate';

/** Folder of a job's data sets, as its program writes it. */
const FOLDER = '$TESSERA_DATASETS';

export function DataSection(
  props: ISectionProps & { datasets: Loaded<Dataset[]>; onRetry: () => void }
): React.JSX.Element {
  const { trans } = useUi();
  const { me } = useModel();
  const tenant = useTenant(props.draft);
  const { draft, change, offers, datasets } = props;
  if (datasets.state === 'loading' || me === null) {
    return <Loading rows={2} />;
  }
  if (datasets.state === 'failed') {
    return <ProblemNote error={datasets.error} onRetry={props.onRetry} />;
  }
  const choices = datasetChoices(draft, datasets.value, offers.clusters, tenant);
  if (choices.length === 0) {
    return (
      <p className="tsr-hint">{trans.__('Your tenant has none. The operator of a cluster declares them.')}</p>
    );
  }
  return (
    <ul className="tsr-datasets" aria-label={trans.__('Data sets')}>
      {choices.map(choice => (
        <li key={choice.name}>
          <label
            className={`tsr-dataset${choice.obstacle && !choice.chosen ? ' tsr-mod-shut' : ''}${
              choice.obstacle && choice.chosen ? ' tsr-mod-error' : ''
            }`}
          >
            <input
              type="checkbox"
              checked={choice.chosen}
              // What is chosen can always be taken back.
              disabled={choice.obstacle !== null && !choice.chosen}
              onChange={event => {
                const others = draft.datasets.filter(name => name !== choice.name);
                change({ datasets: event.target.checked ? [...others, choice.name] : others });
              }}
            />
            <span className="tsr-dataset-what">
              <strong>{choice.name}</strong>
              {choice.description ? <span className="tsr-note">{choice.description}</span> : null}
              <span className="tsr-note">
                {choice.obstacle
                  ? obstacleText(choice.obstacle, trans)
                  : trans.__('At %1', choice.clusters.join(', '))}
              </span>
            </span>
            <code>{`${FOLDER}/${choice.name}`}</code>
          </label>
        </li>
      ))}
    </ul>
  );
}

function obstacleText(obstacle: Obstacle, trans: TranslationBundle): string {
  switch (obstacle.kind) {
    case 'unknown':
      return trans.__('Not offered to your tenant any more');
    case 'elsewhere':
      return trans.__('Not at %1', obstacle.cluster);
    case 'no-service':
      return trans.__('Only at clusters that keep no service running');
    case 'apart':
      return trans.__('At no cluster together with %1', obstacle.other);
  }
}
