/**
 * Whether the connection that carries the session still moves, by asking.
 *
 * The gateway keeps transports alive by itself, but neither a WebSocket nor WebTransport
 * tells JavaScript about that, so the only proof of life is a message.
 */

/**
 * @typedef {object} Pace
 * @property {number} everyMs between pings
 * @property {number} deadMs silence after a ping that counts as dead
 * @property {boolean} answersOnly what others say does not break that silence: a path can be dead
 *   in one direction alone
 */

/** Pings of a session in a call: a dead link is noticed within three seconds. */
export const PACE_IN_CALL = Object.freeze({ everyMs: 1_000, deadMs: 1_900, answersOnly: true });

/**
 * Pings of an idle session.
 * @param {number} heartbeatMs what the gateway announced
 * @returns {Pace}
 */
export function paceIdle(heartbeatMs) {
  return { everyMs: heartbeatMs, deadMs: 5_000, answersOnly: false };
}

/** The ping itself has to be answered in so many times the silence that counts as dead. */
const UNANSWERED_FACTOR = 3;

/** What the gateway can only have said because it heard something. */
const ANSWERS = new Set(['joined', 'accepted', 'members', 'ok', 'pong', 'ice', 'error']);

export class Liveness {
  /**
   * @param {number} now
   * @param {Pace} pace
   */
  constructor(now, pace) {
    this.pace = pace;
    this.heard = now;
    /** When that was an answer. */
    this.answered = now;
    /** @type {{id: number | null, at: number, deadMs: number} | null} without `id` while the link takes nothing */
    this.asked = null;
    this.nextAsk = now;
    this.stalled = false;
  }

  /**
   * @param {Pace} pace
   * @param {number} now
   */
  setPace(pace, now) {
    this.pace = pace;
    this.nextAsk = Math.min(this.nextAsk, now + pace.everyMs);
    if (this.asked !== null) this.asked.deadMs = Math.min(this.asked.deadMs, pace.deadMs);
  }

  /**
   * Asks at once and waits no longer than `deadMs`.
   * @param {number} now
   * @param {number} deadMs
   */
  probe(now, deadMs) {
    this.asked = null;
    this.nextAsk = now;
    this.probeMs = deadMs;
  }

  /**
   * Something arrived. That puts off giving the link up, but takes nothing back: on a link that
   * has been given up only an answer proves that both directions work.
   * @param {number} now
   * @param {string} type of message
   */
  hear(now, type) {
    this.heard = now;
    if (ANSWERS.has(type)) this.answered = now;
  }

  /**
   * @param {number} now
   */
  wantsPing(now) {
    return (this.asked === null || this.asked.id === null) && now >= this.nextAsk;
  }

  /**
   * @param {number} id
   * @param {number} now
   */
  ask(id, now) {
    this.asked = { id, at: now, deadMs: this.probeMs ?? this.pace.deadMs };
    this.probeMs = undefined;
    this.nextAsk = now + this.pace.everyMs;
  }

  /**
   * A `pong` came.
   * @param {number} id
   * @param {number} now
   * @returns {{rtt: number | null, recovered: boolean} | null} null if it is not the one waited
   *   for; no round-trip time where the link was dead meanwhile
   */
  answer(id, now) {
    if (this.asked?.id !== id) return null;
    const rtt = now - this.asked.at;
    const recovered = this.stalled;
    this.asked = null;
    this.stalled = false;
    return { rtt: recovered ? null : rtt, recovered };
  }

  /** When the link counts as dead. */
  deadline() {
    if (this.asked === null || this.stalled) return Infinity;
    const { at, deadMs } = this.asked;
    const alive = this.pace.answersOnly ? this.answered : this.heard;
    return Math.min(Math.max(at, alive) + deadMs, at + UNANSWERED_FACTOR * deadMs);
  }

  due() {
    return this.asked === null ? this.nextAsk : this.deadline();
  }

  /**
   * Returns whether the link is given up just now.
   * @param {number} now
   */
  handleTimeout(now) {
    // It goes out right behind this, or else the link is blocked, which must not last either.
    if (this.asked === null && now >= this.nextAsk) this.asked = { id: null, at: now, deadMs: this.probeMs ?? this.pace.deadMs };
    if (now < this.deadline()) return false;
    this.stalled = true;
    return true;
  }
}
