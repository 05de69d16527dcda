/** What a run used, summed up from the samples of its cluster. */
import type { UsageSample } from './types';

export interface IMeasured {
  /** Processor time, millicores × seconds. */
  millicoreSeconds: number;
  /** Between the start and the last sample. */
  seconds: number;
  mostMillicores: number;
  mostMemoryMib: number;
  /** Mean over time. */
  memoryMib: number;
}

/**
 * Each sample is the mean since the one before, the first since the start of the run.
 *
 * @returns null while nothing was measured.
 */
export function measured(samples: readonly UsageSample[], startedAt: string | null): IMeasured | null {
  const [first] = samples;
  if (!first) {
    return null;
  }
  let last = Math.min(Date.parse(startedAt ?? first.at), Date.parse(first.at));
  const found = { millicoreSeconds: 0, seconds: 0, mostMillicores: 0, mostMemoryMib: 0, memoryMib: 0 };
  let memorySeconds = 0;
  for (const sample of samples) {
    const at = Date.parse(sample.at);
    const seconds = Math.max(0, at - last) / 1000;
    last = Math.max(last, at);
    found.seconds += seconds;
    found.millicoreSeconds += sample.cpu_millicores * seconds;
    memorySeconds += sample.memory_mib * seconds;
    found.mostMillicores = Math.max(found.mostMillicores, sample.cpu_millicores);
    found.mostMemoryMib = Math.max(found.mostMemoryMib, sample.memory_mib);
  }
  found.memoryMib = found.seconds > 0 ? memorySeconds / found.seconds : first.memory_mib;
  return found;
}
