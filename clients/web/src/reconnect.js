/**
 * Decides when to open another connection, and on which transport. It owns the dial under
 * way and the timers; what a connection carries is none of its business.
 */
import { Backoff } from './backoff.js';
import { HandoverError } from './errors.js';

/**
 * @typedef {import('./transport/transport.js').Transport} Transport
 * @typedef {import('./transport/transport.js').TransportKind} TransportKind
 * @typedef {'auto' | TransportKind} Choice
 */

/** A session that had to start on a WebSocket tries WebTransport again after this, doubling. */
export const PROMOTE_FIRST_MS = 10_000;
export const PROMOTE_MAX_MS = 10 * 60_000;
/** After WebTransport stopped moving, it is left alone for so long, doubling. */
export const DEMOTED_FIRST_MS = 60_000;
export const DEMOTED_MAX_MS = 30 * 60_000;
/** WebTransport that worked for so long before it stalled was not itself at fault. */
const PROVEN_MS = 5 * 60_000;
/** So many stalls in a row and WebTransport is left alone. */
const STALLS_MAX = 2;
/** A dial that began so shortly before the machine was found awake began after it woke. */
const AWAKE_MS = 1_000;

/**
 * @typedef {object} Effects
 * @property {(choice: Choice, signal: AbortSignal) => Promise<Transport>} dial
 * @property {(transport: Transport) => void} opened
 * @property {(error: HandoverError, retryInMs: number | null) => void} failed null: nothing
 *   is lost by it, and it is not tried again by itself
 * @property {() => boolean} canPromote whether WebTransport exists here
 * @property {() => number} now milliseconds, monotonic
 * @property {() => number} [wallNow] milliseconds, going on while the machine sleeps
 * @property {() => number} [random]
 */

export class Reconnector {
  /**
   * @param {Effects} effects
   * @param {Choice} choice
   */
  constructor(effects, choice) {
    this.effects = effects;
    this.choice = choice;
    const { random } = effects;
    this.backoff = new Backoff({ random });
    this.promotion = new Backoff({ random, first: PROMOTE_FIRST_MS, max: PROMOTE_MAX_MS, eager: false });
    this.demotions = 0;
    this.stalls = 0;
    /** WebTransport is not tried before this. */
    this.shunUntil = -Infinity;
    /** @type {AbortController | null} the dial under way */
    this.dialing = null;
    /** Whether that is for something better than what carries the session. */
    this.promotes = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.promoting = undefined;
    /** Nothing is dialled before this. */
    this.heldUntil = -Infinity;
    /** The gateway asked to come again no sooner. */
    this.putOffUntil = -Infinity;
    /** When the last dial began, by the wall clock. */
    this.dialedAt = -Infinity;
    /** @type {{kind: TransportKind, since: number} | null} what carries the session */
    this.carrier = null;
    /** Whether that says nothing any more. */
    this.silent = false;
    /** Whether nothing was to be dialled again since it came about. */
    this.isNew = false;
    /** Whether another connection is needed even so: its network or its gateway may be about to go. */
    this.wanted = false;
    /** Whether a connection of ours is greeting. */
    this.greeting = false;
    this.stopped = false;
  }

  get isShunning() {
    return this.effects.now() < this.shunUntil;
  }

  /** Whether something carries the session. */
  get isCarried() {
    return this.carrier !== null && !this.silent;
  }

  /** Whether the session can wait: no other connection is needed, or there will be a dial at the time given for it. */
  get canWait() {
    return this.isCarried && (!this.wanted || this.timer !== undefined);
  }

  /** Whether what carries the session is not what was chosen since. */
  get isAstray() {
    return this.carrier !== null && this.choice !== 'auto' && this.carrier.kind !== this.choice;
  }

  /**
   * A session is carried by this transport.
   * @param {TransportKind} kind
   */
  live(kind) {
    this.greeting = false;
    this.carrier = { kind, since: this.effects.now() };
    this.silent = false;
    this.wanted = false;
    this.isNew = true;
    this.putOffUntil = -Infinity;
    if (this.isAstray) return this.dialNow();
    this.dialing?.abort();
    this.dialing = null;
    clearTimeout(this.timer);
    this.timer = undefined;
    if (kind === 'webtransport') this.promotion.reset();
    this.planPromotion();
  }

  /**
   * Nothing carries the session any more: dials at once, then with growing pauses.
   * @param {number} [retryAfter]
   */
  lost(retryAfter = 0) {
    // What failed beside a connection that worked is no reason to be slow now.
    if (this.isCarried) this.broke();
    this.carrier = null;
    this.silent = false;
    clearTimeout(this.promoting);
    this.dropPromotion();
    this.obey(retryAfter);
    if (this.isOnItsWay) return;
    this.schedule(this.pause());
  }

  /**
   * The greeting of a connection came to nothing.
   * @param {Transport | undefined} transport
   * @param {{retryAfter?: number, timedOut: boolean, reason?: string, others?: boolean}} why `others`: further
   *   ones are greeting
   */
  refused(transport, { retryAfter, timedOut, reason, others = false }) {
    this.greeting = others;
    // It opened and then did not move: what some browsers do when flow control breaks.
    if (timedOut && transport?.kind === 'webtransport') this.shun();
    this.obey(retryAfter);
    if (this.isOnItsWay) return;
    this.tryAgain(new HandoverError('unreachable', reason ?? 'the connection broke'));
  }

  /**
   * What a greeting said was out of date before it was answered: it was given up, and is said again.
   * @param {boolean} [others] are greeting
   */
  forestalled(others = false) {
    this.greeting = others;
    if (this.isOnItsWay) return;
    if (this.canWait && !this.isAstray) this.planPromotion();
    else this.schedule(this.pause());
  }

  /**
   * Another connection did not come about.
   * @param {HandoverError} error
   */
  tryAgain(error) {
    if (this.canWait) {
      this.effects.failed(error, null);
      return this.planPromotion();
    }
    const wait = this.pause();
    this.effects.failed(error, wait);
    this.schedule(wait);
  }

  /** What carries the session has gone silent: look for another way beside it. */
  stalled() {
    if (this.isCarried) this.broke();
    this.silent = true;
    if (this.carrier?.kind === 'webtransport' && this.choice === 'auto') {
      // Once may be the network; twice without a long good time between is the transport.
      const proven = this.effects.now() - this.carrier.since > PROVEN_MS;
      this.stalls = proven ? 1 : this.stalls + 1;
      if (this.stalls >= STALLS_MAX) this.shun();
    }
    this.dialing?.abort();
    this.dialing = null;
    this.schedule(this.pause());
  }

  /** It moves again: there is no hurry any more, unless it is about to end. */
  recovered() {
    this.silent = false;
    this.backoff.reset();
    if (!this.wanted && !this.isAstray) {
      clearTimeout(this.timer);
      this.timer = undefined;
    }
    if (this.promoting === undefined) this.planPromotion();
  }

  shun() {
    const pause = Math.min(DEMOTED_MAX_MS, DEMOTED_FIRST_MS * 2 ** this.demotions);
    this.demotions += 1;
    this.stalls = 0;
    this.shunUntil = this.effects.now() + pause;
  }

  /** The network may be another one: dial without delay, whatever the last pause was. */
  hinted() {
    this.backoff.reset();
    this.promotion.reset();
    this.shunUntil = -Infinity;
    this.demotions = 0;
    this.wanted = true;
    this.dialNow();
  }

  /** The machine was asleep: dial, unless a loss was noticed first and that has been done. */
  woken() {
    const { wallNow = Date.now } = this.effects;
    if (wallNow() - this.dialedAt >= AWAKE_MS) this.hinted();
  }

  /**
   * The gateway will be gone: move within the time it gives.
   * @param {number} inMs
   */
  draining(inMs) {
    this.wanted = true;
    // What says nothing any more is looked for another way already.
    if (this.isCarried) this.schedule(inMs);
  }

  /**
   * From now on only this transport will do; moves to it at once if need be.
   * @param {Choice} choice
   */
  choose(choice) {
    this.choice = choice;
    this.shunUntil = -Infinity;
    const wanted = choice === 'auto' ? 'webtransport' : choice;
    if (this.carrier?.kind !== wanted) return this.dialNow();
    this.dropPromotion();
    this.planPromotion();
  }

  /**
   * What was chosen last is given up for what was before. Nothing is dialled for that alone.
   * @param {Choice} choice
   */
  revert(choice) {
    this.choice = choice;
    if (this.timer !== undefined && this.isCarried && !this.wanted && !this.isAstray) {
      clearTimeout(this.timer);
      this.timer = undefined;
      this.planPromotion();
    }
    if (this.dialing === null || this.promotes) return;
    this.dialing.abort();
    this.dialing = null;
    if (this.canWait) this.planPromotion();
    else this.schedule(this.pause());
  }

  /** There is something to say that cannot wait: no pause is sat out. */
  hurry() {
    this.backoff.reset();
    if (!this.isCarried && !this.isOnItsWay) this.schedule(0);
  }

  /**
   * Dials nothing for a while.
   * @param {number} ms
   */
  hold(ms) {
    this.heldUntil = this.effects.now() + ms;
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    clearTimeout(this.promoting);
    this.dialing?.abort();
    this.dialing = null;
  }

  /** Another connection is needed than the one that carries the session: what failed before that counts if it was short. */
  broke() {
    this.isNew = false;
    if (this.carrier !== null) this.backoff.broke(this.effects.now() - this.carrier.since);
  }

  /**
   * The gateway asked to come again no sooner.
   * @param {number} [retryAfter]
   */
  obey(retryAfter = 0) {
    this.putOffUntil = Math.max(this.putOffUntil, this.effects.now() + retryAfter);
  }

  /** How long to wait with the next dial. */
  pause() {
    // What failed before it is no reason to be slow beside it.
    if (this.isNew) this.broke();
    return this.backoff.next(Math.max(this.putOffUntil - this.effects.now(), 0));
  }

  /** Whether another connection is dialled or greets; one that would only be better does not count. */
  get isOnItsWay() {
    return this.greeting || (this.dialing !== null && !this.promotes);
  }

  dialNow() {
    this.dialing?.abort();
    this.dialing = null;
    this.schedule(0);
  }

  /** Gives up trying for something better, which may be waiting for nothing. */
  dropPromotion() {
    if (this.dialing === null || !this.promotes) return;
    this.dialing.abort();
    this.dialing = null;
  }

  /** @param {number} wait */
  schedule(wait) {
    if (this.stopped) return;
    clearTimeout(this.timer);
    const held = this.heldUntil - this.effects.now();
    const delay = Math.max(wait, held);
    if (delay <= 0) void this.dial(this.effective());
    else this.timer = setTimeout(() => void this.dial(this.effective()), delay);
  }

  /** @returns {Choice} */
  effective() {
    return this.choice === 'auto' && this.isShunning ? 'websocket' : this.choice;
  }

  /**
   * @param {Choice} choice
   * @param {boolean} [promotes] it is for something better: whatever is needed goes first
   */
  async dial(choice, promotes = false) {
    if (this.stopped) return;
    if (!promotes) {
      this.timer = undefined;
      this.dropPromotion();
    }
    if (this.dialing !== null) return;
    this.promotes = promotes;
    const { wallNow = Date.now } = this.effects;
    const dialing = new AbortController();
    this.dialing = dialing;
    this.dialedAt = wallNow();
    try {
      const transport = await this.effects.dial(choice, dialing.signal);
      if (this.dialing !== dialing) return transport.abort();
      this.dialing = null;
      this.greeting = true;
      this.effects.opened(transport);
    } catch (error) {
      if (this.dialing !== dialing) return;
      this.dialing = null;
      // One that greets goes on, and what becomes of it decides.
      if (this.greeting) return;
      this.tryAgain(error instanceof HandoverError ? error : new HandoverError('unreachable', String(error), { cause: error }));
    }
  }

  /** Plans to move from a WebSocket to WebTransport, in case it works by then. */
  planPromotion() {
    clearTimeout(this.promoting);
    this.promoting = undefined;
    if (this.stopped || this.choice !== 'auto' || this.carrier?.kind !== 'websocket') return;
    if (!this.effects.canPromote()) return;
    const shunned = Math.max(0, this.shunUntil - this.effects.now(), this.putOffUntil - this.effects.now());
    this.promoting = setTimeout(() => {
      this.promoting = undefined;
      if (this.carrier?.kind === 'websocket') void this.dial('webtransport', true);
    }, shunned + PROMOTE_FIRST_MS / 2 + this.promotion.next());
  }
}
