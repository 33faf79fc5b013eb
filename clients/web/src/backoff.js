/** When to try again: full jitter under a doubling ceiling, the first retry at once. */

export const BACKOFF_FIRST_MS = 1_000;
export const BACKOFF_MAX_MS = 30_000;

/**
 * One that the gateway put off counts as so many failures at the most, four seconds: it is there, waits
 * for something itself, and says when to come again.
 */
const PUT_OFF = 3;
/** A connection that held for so long ends the run of failures before it. */
const HELD_MS = 1_000;
/**
 * One that came about and did not hold counts as so many failures at the most: the gateway is there, and
 * only has to be spared a tight loop.
 */
const SHAKY = 2;

export class Backoff {
  /** @param {{random?: () => number, first?: number, max?: number, eager?: boolean}} [options] */
  constructor({ random = Math.random, first = BACKOFF_FIRST_MS, max = BACKOFF_MAX_MS, eager = true } = {}) {
    this.random = random;
    this.first = first;
    this.max = max;
    /** Whether the first retry is at once. */
    this.eager = eager;
    this.failures = 0;
  }

  /**
   * The wait before the next try.
   * @param {number} [atLeast] what the gateway asked for; nobody returns sooner than that, and
   *   the jitter comes on top, so that those told the same do not return together
   */
  next(atLeast = 0) {
    if (atLeast > 0) this.failures = Math.min(this.failures, PUT_OFF);
    const doublings = this.eager ? this.failures - 1 : this.failures;
    this.failures += 1;
    if (doublings < 0) return atLeast === 0 ? 0 : atLeast + this.random() * this.first;
    return atLeast + this.random() * Math.min(this.max, this.first * 2 ** doublings);
  }

  /**
   * A connection that had come about is gone.
   * @param {number} heldMs how long it held
   */
  broke(heldMs) {
    this.failures = heldMs >= HELD_MS ? 0 : Math.min(this.failures, SHAKY);
  }

  reset() {
    this.failures = 0;
  }
}
