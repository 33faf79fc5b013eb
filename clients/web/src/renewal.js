/** Newer tokens for a session that goes on, asked for before the one it has ends. */
import { now } from './carrier.js';
import { DIAL_TIMEOUT_MS, inTime } from './dial.js';

/** Nobody is asked for a newer token if the present one ends sooner. */
const LEFT_MIN_MS = 500;

/**
 * @typedef {object} Effects
 * @property {() => string | Promise<string>} token asked for a newer one
 * @property {(token: string) => Promise<void>} bring
 * @property {(error: unknown) => void} failed
 */

export class Renewal {
  /** @type {AbortController | null} ends the asking under way */
  #asking = null;
  /** @type {Effects} */
  #effects;

  /** @param {Effects} effects */
  constructor(effects) {
    this.#effects = effects;
  }

  /**
   * Asks for a newer token until there is one, later each time. If none comes, the session goes on
   * until the old one ends, and the next dial asks again.
   * @param {number} left milliseconds until then
   */
  async begin(left) {
    this.stop();
    const { token, bring, failed } = this.#effects;
    const asking = new AbortController();
    this.#asking = asking;
    const { signal } = asking;
    const end = now() + left;
    while (left >= LEFT_MIN_MS && !signal.aborted) {
      try {
        // One that comes too late may be older than what the session has by then.
        return await bring(await inTime(token(), signal, 'no token came in time', Math.min(left, DIAL_TIMEOUT_MS)));
      } catch (error) {
        if (!signal.aborted) failed(error);
      }
      await pause((end - now()) / 2, signal);
      left = end - now();
    }
  }

  /** The session has a newer token, or is over. */
  stop() {
    this.#asking?.abort();
    this.#asking = null;
  }
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal ends it early
 * @returns {Promise<void>}
 */
function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    const aborted = () => {
      clearTimeout(timer);
      resolve();
    };
    if (signal.aborted) aborted();
    else signal.addEventListener('abort', aborted, { once: true });
  });
}
