/**
 * Money between two polls. Amounts are integers in micro-units, rates in nano-units per hour; BigInt keeps them exact.
 */
import type { Accrual } from './types';

const NANO_PER_MICRO_MS_PER_HOUR = 1000n * 3_600_000n;

/**
 * Cost at a moment, rounded down to a whole micro-unit.
 *
 * @param accrual Amount at `as_of` and the rate since then.
 * @param at Milliseconds since the epoch on the service's clock. Earlier than `as_of` gives the amount at `as_of`.
 */
export function accrued(accrual: Pick<Accrual, 'micro' | 'nano_per_hour' | 'as_of'>, at: number): bigint {
  const elapsed = Math.max(0, Math.trunc(at - Date.parse(accrual.as_of)));
  const base = BigInt(Math.trunc(accrual.micro));
  return base + (BigInt(Math.trunc(accrual.nano_per_hour)) * BigInt(elapsed)) / NANO_PER_MICRO_MS_PER_HOUR;
}

/**
 * What is being charged now, nano-units per hour: as the bill says; for someone who may not see it, the sum over the jobs shown.
 */
export function totalRate(
  bill: Accrual | null | undefined,
  accruals: Iterable<Accrual | null | undefined>
): number {
  if (bill) {
    return bill.nano_per_hour;
  }
  let sum = 0;
  for (const accrual of accruals) {
    sum += accrual?.nano_per_hour ?? 0;
  }
  return sum;
}

/** Difference between the service's clock and this one, milliseconds; half the round trip is taken off. */
export function clockOffset(serverTime: string, sentAt: number, receivedAt: number): number {
  return Date.parse(serverTime) - Math.round((sentAt + receivedAt) / 2);
}
