/**
 * Requests that wait for their answer: repeated on every new connection until it comes. All
 * of them may be applied twice without harm, which is why nobody has to know whether an
 * answer was lost on its way.
 */
import { RETRY_DEFAULT_MS } from './sends.js';

/** A request of the user is given up after it has been told "later" so often. */
const TRIES_MAX = 8;

/**
 * @typedef {object} Ask
 * @property {'join' | 'leave' | 'update' | 'members' | 'ice' | 'refresh'} type
 * @property {string} [room]
 * @property {string} [metadata] JSON text
 * @property {string} [token]
 */

/**
 * @typedef {object} Request
 * @property {number} id also the `id` on the wire
 * @property {Ask} ask
 * @property {boolean} own asked by the session itself, for its upkeep
 * @property {number} tries
 * @property {boolean} sent on the present connection
 * @property {number | null} until not before this; Infinity until released
 */

/** Requests by number. */
export class Requests {
  constructor() {
    this.last = 0;
    /** @type {Map<number, Request>} in the order they were asked */
    this.open = new Map();
  }

  get size() {
    return this.open.size;
  }

  /** A number nothing else has. */
  number() {
    this.last += 1;
    return this.last;
  }

  /**
   * @param {Ask} ask
   * @param {{own?: boolean, withheld?: boolean}} [how]
   */
  push(ask, { own = false, withheld = false } = {}) {
    const id = this.number();
    const until = withheld ? Infinity : null;
    this.open.set(id, { id, ask, own, tries: 0, sent: false, until });
    return id;
  }

  /**
   * Lets a withheld request go out.
   * @param {number} id
   */
  release(id) {
    const request = this.open.get(id);
    if (request !== undefined && request.until === Infinity) request.until = null;
  }

  /**
   * The next one to go out. Own ones go first: after a lost session they make the client a
   * member again, which what the user asks may depend on.
   * @param {number} now
   * @returns {Request | null}
   */
  transmit(now) {
    let next = null;
    for (const request of this.open.values()) {
      if (request.sent || (request.until !== null && now < request.until)) continue;
      if (request.own) {
        next = request;
        break;
      }
      next ??= request;
    }
    if (next === null) return null;
    next.sent = true;
    next.until = null;
    return next;
  }

  /** A new connection: everything unanswered goes out again. */
  repeat() {
    for (const request of this.open.values()) request.sent = false;
  }

  /**
   * @param {number} id
   */
  take(id) {
    const request = this.open.get(id);
    this.open.delete(id);
    return request;
  }

  /**
   * Takes out every request that `is` picks.
   * @param {(request: Request) => boolean} is
   */
  takeAll(is) {
    const picked = [...this.open.values()].filter(is);
    for (const request of picked) this.open.delete(request.id);
    return picked;
  }

  /**
   * It was told "later".
   * @param {number} now
   * @param {Request} request
   * @param {number | null | undefined} retryAfter
   * @returns {boolean} whether it will be tried again
   */
  postpone(now, request, retryAfter) {
    request.tries += 1;
    if (!request.own && request.tries >= TRIES_MAX) return false;
    request.sent = false;
    request.until = now + (retryAfter ?? RETRY_DEFAULT_MS);
    return true;
  }

  /**
   * Ends waits that are over, whether or not anything can go out.
   * @param {number} now
   */
  handleTimeout(now) {
    for (const request of this.open.values()) {
      if (request.until !== null && now >= request.until) request.until = null;
    }
  }

  /** When one that was told "later" may go out. */
  due() {
    let due = Infinity;
    for (const request of this.open.values()) {
      if (!request.sent && request.until !== null) due = Math.min(due, request.until);
    }
    return due;
  }
}
