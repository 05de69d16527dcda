/** A small curve of the last minutes; the figures stand beside it. */
import * as React from 'react';

const WIDTH = 120;
const HEIGHT = 24;
/** Fewest points across the whole width; a shorter history grows from the right. */
const POINTS = 24;

export function Sparkline(props: { values: readonly number[]; limit: number | null }): React.JSX.Element {
  const { values, limit } = props;
  // Against the limit a person sees how near they are; without one the curve fills the height.
  const top = Math.max(limit ?? 0, ...values, 1);
  const step = WIDTH / (Math.max(POINTS, values.length) - 1);
  const points = values.map((value, index) => {
    const x = WIDTH - (values.length - 1 - index) * step;
    return `${x.toFixed(1)},${(HEIGHT - 1 - (value / top) * (HEIGHT - 2)).toFixed(1)}`;
  });
  const first = (WIDTH - (values.length - 1) * step).toFixed(1);
  return (
    <svg
      className="tsr-spark"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      aria-hidden="true"
    >
      <polygon points={`${first},${HEIGHT} ${points.join(' ')} ${WIDTH},${HEIGHT}`} />
      <polyline points={points.join(' ')} vectorEffect="non-scaling-stroke" />
    </svg>
  );
}
