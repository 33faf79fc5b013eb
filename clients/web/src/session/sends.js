/**
 * What one room's lane still has to get into the log: kept until `accepted`.
 *
 * A `seq` is given when a send goes out. Sends go out without waiting for each other, so when
 * one is refused those behind it are already on their way under numbers that will not do. The
 * lane then settles: nothing more goes out until everything under way has been answered, and
 * only then are the remaining sends numbered anew. So an answer always means the send that
 * carried its number.
 */
import { retryOf } from '../errors.js';

/** What a send counts for beside its body. */
const OVERHEAD = 128;
/** A gateway that leaves a send unanswered for so long while a lane settles is out of step. */
export const SETTLE_TIMEOUT_MS = 30_000;
/** How long to wait when the gateway says "later" without saying when. */
export const RETRY_DEFAULT_MS = 1_000;

/**
 * @typedef {object} Item
 * @property {number} id the send's own number, which never changes
 * @property {string | undefined} to
 * @property {string} body JSON text
 * @property {number} cost
 * @property {'waiting' | 'flying' | 'again'} stage `again`: refused for now, goes out again
 *   once the lane has settled
 * @property {number} seq the number it went out with; 0 while waiting
 * @property {number | null} doubtful the number under which the gateway failed on it, which does not
 *   rule out that it was applied
 */

/**
 * @param {string} body JSON text
 * @returns {number} what it counts for in an outbox
 */
export function costOf(body) {
  return OVERHEAD + body.length;
}

/** The sends of one room and lane, in the order they were given. */
export class Sends {
  constructor() {
    /** @type {Item[]} */
    this.items = [];
    /** Items before this one are not waiting; those from it on are. */
    this.next = 0;
    this.nextSeq = 1;
    /** The gateway said that so many are applied. */
    this.applied = 0;
    this.flying = 0;
    /** What all items together count for. */
    this.cost = 0;
    /** @type {number | null} since when it settles */
    this.settling = null;
    /** The gateway's answers do not agree on which numbers are used up. */
    this.contradicted = false;
    /** @type {number | null} */
    this.holdUntil = null;
  }

  get isEmpty() {
    return this.items.length === 0;
  }

  /** When something will have to be looked at again. */
  due() {
    if (this.contradicted) return -Infinity;
    // Nothing goes out while it settles, however long it was to be held.
    if (this.settling !== null) return this.settling + SETTLE_TIMEOUT_MS;
    return this.holdUntil ?? Infinity;
  }

  /**
   * Ends a wait that is over, whether or not anything is left that waited.
   * @param {number} now
   */
  handleTimeout(now) {
    if (this.holdUntil !== null && now >= this.holdUntil) this.holdUntil = null;
  }

  /**
   * Whether the gateway has left answers out or contradicts itself: what it has is then for a new
   * connection to find out.
   * @param {number} now
   */
  isOutOfStep(now) {
    return this.contradicted || (this.settling !== null && now >= this.settling + SETTLE_TIMEOUT_MS);
  }

  /**
   * @param {number} id
   * @param {string | undefined} to
   * @param {string} body
   */
  push(id, to, body) {
    const cost = costOf(body);
    this.cost += cost;
    this.items.push({ id, to, body, cost, stage: 'waiting', seq: 0, doubtful: null });
  }

  /**
   * The next send to go out, with its number.
   * @param {number} now
   * @returns {Item | null}
   */
  transmit(now) {
    const item = this.items[this.next];
    if (item === undefined || this.settling !== null || this.contradicted) return null;
    if (this.holdUntil !== null && now < this.holdUntil) return null;
    this.holdUntil = null;
    item.stage = 'flying';
    item.seq = this.nextSeq;
    this.next += 1;
    this.nextSeq += 1;
    this.flying += 1;
    return item;
  }

  /**
   * Everything up to `seq` is in the log.
   * @param {number} seq
   * @returns {{id: number, seq: number}[]}
   */
  accept(seq) {
    this.applied = Math.max(this.applied, seq);
    const accepted = [];
    for (let item = this.items[0]; item !== undefined; item = this.items[0]) {
      const number = numberOf(item);
      if (number === null || number > seq) break;
      if (item.stage === 'flying') this.flying -= 1;
      this.remove(0);
      accepted.push({ id: item.id, seq: number });
    }
    this.nextSeq = Math.max(this.nextSeq, this.applied + 1);
    this.settle();
    return accepted;
  }

  /**
   * A send was refused.
   * @param {number} now
   * @param {number} seq
   * @param {{code: string, retry_after?: number | null, expected?: number | null}} error
   * @returns {{id: number, uncertain: boolean} | null} the send that is out for good, if one is; `uncertain`: it
   *   may be in the log all the same
   */
  refuse(now, seq, error) {
    const index = this.items.findIndex((item) => item.stage === 'flying' && item.seq === seq);
    const item = this.items[index];
    if (item === undefined) return null;
    this.flying -= 1;
    this.settling ??= now;
    if (typeof error.expected === 'number' && error.expected <= this.applied) this.contradicted = true;
    const retry = retryOf(error.code);
    const uncertain = item.doubtful !== null;
    if (retry === 'never') {
      // Whether its number is used up is then for a new connection to find out.
      this.contradicted ||= uncertain;
      this.remove(index);
    } else {
      item.stage = 'again';
      if (retry === 'later') {
        item.doubtful = seq;
        const until = now + (error.retry_after ?? RETRY_DEFAULT_MS);
        this.holdUntil = Math.max(this.holdUntil ?? 0, until);
      }
    }
    this.settle();
    return retry === 'never' ? { id: item.id, uncertain } : null;
  }

  /**
   * A new connection carries the session, and the gateway has applied everything up to `seq`.
   * What it has not goes out again; what it has is answered in the replay. If it was more before, the
   * gateway's store has lost that: what has gone out since may have been applied, too.
   * @param {number} seq
   * @returns {Item[]} what nobody can tell the fate of
   */
  resume(seq) {
    const uncertain = seq < this.applied ? this.disown() : [];
    this.goOnAfter(seq);
    return uncertain;
  }

  /** @param {number} seq */
  goOnAfter(seq) {
    this.flying = 0;
    this.next = 0;
    for (const item of this.items) {
      const number = numberOf(item);
      if (number !== null && number <= seq) {
        item.stage = 'flying';
        item.seq = number;
        this.flying += 1;
        this.next += 1;
      } else {
        item.stage = 'waiting';
        item.seq = 0;
        item.doubtful = null;
      }
    }
    this.applied = seq;
    this.nextSeq = seq + 1;
    this.settling = null;
    this.contradicted = false;
    this.holdUntil = null;
  }

  /**
   * A membership begins in a session that has had this many applied; nothing is under way.
   * @param {number} seq
   */
  start(seq) {
    const uncertain = this.resume(seq);
    const accepted = this.accept(seq);
    this.goOnAfter(seq);
    return { accepted, uncertain };
  }

  /**
   * The gateway does not know the session any more. Takes out what was under way, whose fate
   * nobody can tell; the rest is certainly in no log and waits for the new session.
   * @returns {Item[]}
   */
  disown() {
    const uncertain = this.items.filter(isUncertain);
    this.items = this.items.filter((item) => !isUncertain(item));
    this.cost = this.items.reduce((sum, item) => sum + item.cost, 0);
    this.goOnAfter(0);
    return uncertain;
  }

  /**
   * Gives everything up.
   * @returns {{id: number, uncertain: boolean}[]}
   */
  abandon() {
    const items = this.items.map((item) => ({ id: item.id, uncertain: isUncertain(item) }));
    Object.assign(this, new Sends());
    return items;
  }

  /** @param {number} index */
  remove(index) {
    const [item] = this.items.splice(index, 1);
    this.cost -= item?.cost ?? 0;
    if (index < this.next) this.next -= 1;
  }

  settle() {
    if (this.flying > 0 || this.settling === null) return;
    for (const item of this.items.slice(0, this.next)) {
      item.stage = 'waiting';
      item.seq = 0;
    }
    this.next = 0;
    this.nextSeq = this.applied + 1;
    this.settling = null;
  }
}

/**
 * The number under which it may have been applied.
 * @param {Item} item
 */
function numberOf(item) {
  return item.stage === 'waiting' ? item.doubtful : item.seq;
}

/** @param {Item} item */
function isUncertain(item) {
  return item.doubtful !== null || item.stage === 'flying';
}
