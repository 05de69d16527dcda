/** *Resources* of the job: cores, memory, a share of a card or whole cards. */
import * as React from 'react';
import { cardClasses, kindOf } from '../draft';
import type { CardCapacity, ClusterCapacity } from '../types';
import { useModel, useUi } from './context';
import { Field, Segments, Select, SliderNumber } from './controls';
import type { ISectionProps } from './dialogstate';

const SHARE_STEP = 5;
const MOST_NODES = 10_000;

/** Cores and memory in the proportion in which machines have them. */
const SIZES = [
  { cpuMillicores: 500, memoryMib: 1024 },
  { cpuMillicores: 1000, memoryMib: 2048 },
  { cpuMillicores: 2000, memoryMib: 4096 },
  { cpuMillicores: 4000, memoryMib: 16_384 },
  { cpuMillicores: 16_000, memoryMib: 65_536 }
];

export function ResourcesSection(props: ISectionProps): React.JSX.Element {
  const { trans, format } = useUi();
  const { draft, change, offers } = props;
  const clusters = draft.clusters
    ? offers.clusters.filter(cluster => draft.clusters?.includes(cluster.name))
    : offers.clusters;
  const whole = cardClasses(clusters, 'whole');
  const shared = cardClasses(clusters, 'vcuda');
  const largest = (dimension: string): number =>
    Math.max(0, ...clusters.map(cluster => cluster.total[dimension] ?? 0));
  const sizes = SIZES.filter(
    size => size.cpuMillicores <= largest('cpu') && size.memoryMib <= largest('memory')
  );
  const noCards = trans.__('No cluster you may use has cards.');
  return (
    <>
      <div className="tsr-chips" role="group" aria-label={trans.__('Ready choices')}>
        {sizes.map(size => {
          const on = draft.cpuMillicores === size.cpuMillicores && draft.memoryMib === size.memoryMib;
          return (
            <button
              key={size.cpuMillicores}
              type="button"
              className="tsr-chip"
              aria-pressed={on}
              onClick={() => {
                change(size);
              }}
            >
              {format.resources({ cpu: size.cpuMillicores, memory: size.memoryMib })}
            </button>
          );
        })}
      </div>
      <div className="tsr-grid">
        <Field label={trans.__('CPU')}>
          {(id, note) => (
            <SliderNumber
              id={id}
              describedBy={note}
              label={trans.__('CPU')}
              value={draft.cpuMillicores / 1000}
              min={0.5}
              max={Math.max(1, Math.floor(largest('cpu') / 1000))}
              step={0.5}
              unit={trans.__('cores')}
              onChange={value => {
                change({ cpuMillicores: Math.round(value * 1000) });
              }}
            />
          )}
        </Field>
        <Field label={trans.__('Memory')}>
          {(id, note) => (
            <SliderNumber
              id={id}
              describedBy={note}
              label={trans.__('Memory')}
              value={draft.memoryMib / 1024}
              min={0.5}
              max={Math.max(1, Math.floor(largest('memory') / 1024))}
              step={0.5}
              unit="GiB"
              onChange={value => {
                change({ memoryMib: Math.round(value * 1024) });
              }}
            />
          )}
        </Field>
      </div>
      <Segments
        label={trans.__('Cards')}
        value={draft.compute}
        options={[
          { value: 'cpu', label: trans.__('CPU only') },
          {
            value: 'share',
            label: trans.__('Share of a card'),
            disabled: shared.length === 0,
            title: shared.length === 0 ? noCards : ''
          },
          {
            value: 'whole',
            label: trans.__('Whole cards'),
            disabled: whole.length === 0,
            title: whole.length === 0 ? noCards : ''
          }
        ]}
        onChange={compute => {
          change({
            compute,
            cardModel: draft.cardModel ?? (compute === 'share' ? shared : whole)[0]?.card_class ?? null
          });
        }}
      />
      {whole.length + shared.length === 0 ? <p className="tsr-hint">{noCards}</p> : null}
      {draft.compute !== 'cpu' ? (
        <Cards {...props} cards={draft.compute === 'share' ? shared : whole} />
      ) : null}
      {kindOf(draft.path) === 'script' && draft.kind !== 'service' ? (
        <Nodes {...props} clusters={clusters} />
      ) : null}
    </>
  );
}

/** Several nodes for a script, each with the resources above. */
function Nodes(props: ISectionProps & { clusters: ClusterCapacity[] }): React.JSX.Element {
  const { trans } = useUi();
  const { draft, change, clusters } = props;
  const able = clusters.some(cluster => cluster.gang);
  return (
    <div className="tsr-grid">
      <Field
        label={trans.__('Nodes')}
        hint={
          able
            ? trans.__('Equal parts with these resources each; they start together.')
            : trans.__('No cluster you may use runs jobs of several nodes.')
        }
      >
        {(id, note) => (
          <input
            id={id}
            aria-describedby={note}
            className="tsr-input"
            type="number"
            min={1}
            max={MOST_NODES}
            step={1}
            value={draft.nodes}
            disabled={!able && draft.nodes === 1}
            onChange={event => {
              const nodes = Math.trunc(Number(event.target.value));
              if (nodes >= 1 && nodes <= MOST_NODES) {
                change({ nodes });
              }
            }}
          />
        )}
      </Field>
      {draft.nodes > 1 ? (
        <Field
          label={trans.__('Framework')}
          hint={trans.__('Its variables tell each part where the others are.')}
        >
          {(id, note) => (
            <Select
              id={id}
              describedBy={note}
              value={draft.framework}
              options={[
                { value: 'none', label: trans.__('None') },
                { value: 'pytorch', label: 'PyTorch' },
                { value: 'tensorflow', label: 'TensorFlow' },
                { value: 'mpi', label: 'MPI' }
              ]}
              onChange={framework => {
                change({ framework });
              }}
            />
          )}
        </Field>
      ) : null}
    </div>
  );
}

function Cards(props: ISectionProps & { cards: CardCapacity[] }): React.JSX.Element {
  const { trans, format } = useUi();
  const { me } = useModel();
  const name = React.useId();
  const { draft, change, cards } = props;
  const card = cards.find(item => item.card_class === draft.cardModel);
  const share = draft.compute === 'share';
  const proportional = card ? Math.floor((card.memory_mib * draft.shareCentiCards) / 100) : 0;
  return (
    <>
      <div className="tsr-tiles" role="radiogroup" aria-label={trans.__('Card')}>
        {cards.map(item => (
          <label key={item.card_class} className={`tsr-tile${item === card ? ' tsr-mod-on' : ''}`}>
            <input
              type="radio"
              name={name}
              checked={item === card}
              onChange={() => {
                change({ cardModel: item.card_class, shareMemoryMib: null });
              }}
            />
            <strong>{item.card_class}</strong>
            <span className="tsr-note">
              {trans.__(
                'Free: %1 of %2',
                format.cards(share ? item.free_centi_cards : item.whole_cards_free * 100),
                format.cards(item.total_centi_cards)
              )}
            </span>
            {typeof item.nano_per_card_hour === 'number' && me ? (
              <span className="tsr-note">
                {trans.__('%1 per card', format.rate(item.nano_per_card_hour, me.currency))}
              </span>
            ) : null}
          </label>
        ))}
      </div>
      {share ? (
        <div className="tsr-grid">
          <Field
            label={trans.__('Share of a card')}
            hint={card ? trans.__('Largest free share now: %1 %', card.largest_share_centi_cards) : null}
          >
            {(id, note) => (
              <SliderNumber
                id={id}
                describedBy={note}
                label={trans.__('Share of a card')}
                value={draft.shareCentiCards}
                min={SHARE_STEP}
                max={100}
                step={SHARE_STEP}
                unit="%"
                onChange={value => {
                  change({ shareCentiCards: Math.round(value), shareMemoryMib: null });
                }}
              />
            )}
          </Field>
          <Field label={trans.__('Card memory')}>
            {(id, note) => (
              <SliderNumber
                id={id}
                describedBy={note}
                label={trans.__('Card memory')}
                value={Math.floor((draft.shareMemoryMib ?? proportional) / 102.4) / 10}
                min={1}
                max={Math.max(1, Math.floor((card?.memory_mib ?? 1024) / 1024))}
                step={1}
                unit="GiB"
                onChange={value => {
                  change({ shareMemoryMib: Math.round(value * 1024) });
                }}
              />
            )}
          </Field>
        </div>
      ) : (
        <div className="tsr-grid">
          <Field label={trans.__('Number of cards')}>
            {(id, note) => (
              <SliderNumber
                id={id}
                describedBy={note}
                label={trans.__('Number of cards')}
                value={draft.wholeCards}
                min={1}
                max={Math.max(1, Math.floor((card?.total_centi_cards ?? 100) / 100))}
                step={1}
                unit=""
                onChange={value => {
                  change({ wholeCards: Math.round(value) });
                }}
              />
            )}
          </Field>
        </div>
      )}
    </>
  );
}
