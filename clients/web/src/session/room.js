/** One room as a client knows it: positions, members, and what waits to be sent. */
import { costOf, Sends } from './sends.js';

/**
 * @typedef {import('../wire/message.js').Lane} Lane
 * @typedef {import('../wire/message.js').Member} Member
 * @typedef {import('../wire/message.js').Positions} Positions
 * @typedef {import('../wire/message.js').Snapshot} Snapshot
 * @typedef {import('../wire/message.js').Message | import('../wire/message.js').Accepted
 *   | import('../wire/message.js').PositionMark} LaneMessage
 */

/** @type {readonly Lane[]} most urgent first */
export const LANES = Object.freeze(['signal', 'bulk']);

/**
 * The bulk lane of a membership. The answer (`joined`, `reset`) and the mark (`position` with
 * `start`) come on different streams in either order; entries are taken once both have come
 * and agree.
 *
 * - `none`: no membership has begun on this connection; what comes belongs to an earlier one.
 * - `answered`: the answer is there, the mark is not; entries still belong to what was.
 * - `marked`: the mark is there, the answer is not; entries belong to what comes, and are kept.
 * - `live`: both.
 * @typedef {{state: 'none'} | {state: 'live'}
 *   | {state: 'answered' | 'marked', epoch: string, offset: number}} Start
 */

/**
 * Why a room starts again: what the gateway said (`trimmed`, `epoch`, `unlisted`, `ahead`), or
 * `rejoined` after the membership was lost, or `new_session` after the whole session was.
 * @typedef {string} ResetCause
 */

/** See the module. */
export class RoomState {
  /**
   * @param {string} name
   * @param {string | undefined} metadata JSON text
   */
  constructor(name, metadata) {
    this.name = name;
    /** What to join with again. */
    this.metadata = metadata;
    /** @type {'joining' | 'member' | 'rejoining'} */
    this.standing = 'joining';
    /** @type {ResetCause} what the user is told once `rejoining` has worked */
    this.cause = 'rejoined';
    /** @type {number | null} the `leave` that goes out once everything before it is answered */
    this.leaving = null;
    /** @type {Positions | null} the last offsets had */
    this.positions = null;
    this.sends = { signal: new Sends(), bulk: new Sends() };
    /** @type {Map<string, Member>} in the order they joined */
    this.members = new Map();
    /** @type {Start} */
    this.start = { state: 'none' };
    /** @type {LaneMessage[]} */
    this.held = [];
    this.heldCost = 0;
  }

  get isDrained() {
    return this.sends.signal.isEmpty && this.sends.bulk.isEmpty;
  }

  /**
   * A membership begins.
   * @param {Snapshot} snapshot
   * @returns {LaneMessage[]} what came on the bulk lane before this was known
   */
  begin({ epoch, signal, bulk, members }) {
    this.standing = 'member';
    this.positions = { epoch, signal, bulk };
    const sorted = [...members].sort((a, b) => a.since - b.since);
    this.members = new Map(sorted.map((member) => [member.peer, { ...member }]));
    if (this.start.state !== 'marked') {
      this.start = { state: 'answered', epoch, offset: bulk };
    } else if (this.start.epoch === epoch && this.start.offset === bulk) {
      this.start = { state: 'live' };
      const held = this.held;
      this.release();
      return held;
    }
    // Otherwise the mark of a later start is already there, and its answer still to come.
    return [];
  }

  /**
   * The mark of a start on the bulk lane.
   * @param {string} epoch
   * @param {number} offset
   */
  mark(epoch, offset) {
    this.release();
    const { start } = this;
    const answered = start.state === 'answered' && start.epoch === epoch && start.offset === offset;
    this.start = answered ? { state: 'live' } : { state: 'marked', epoch, offset };
  }

  /** A connection that goes on from the positions carries the session. */
  goOn() {
    this.release();
    this.start = { state: 'live' };
  }

  /** A connection carries the session that is to begin this membership anew by `reset`. */
  awaitStart() {
    this.release();
    this.start = { state: 'none' };
  }

  /**
   * A connection that knows nothing of the membership carries the session.
   * @param {ResetCause} cause
   */
  fallBack(cause) {
    if (this.standing !== 'joining') {
      // The graver cause stands if one follows the other before the room is joined again.
      if (this.standing !== 'rejoining' || cause === 'new_session') this.cause = cause;
      this.standing = 'rejoining';
    }
    this.positions = null;
    this.awaitStart();
  }

  /**
   * What to do with an entry; moves the position if it is to be taken.
   * @param {Lane} lane
   * @param {string} epoch
   * @param {number} offset
   * @returns {'take' | 'hold' | 'drop'}
   */
  admit(lane, epoch, offset) {
    if (lane === 'bulk' && this.start.state !== 'live') {
      return this.start.state === 'marked' && this.start.epoch === epoch ? 'hold' : 'drop';
    }
    const had = this.positions;
    if (had === null || had.epoch !== epoch || offset <= had[lane]) return 'drop';
    had[lane] = offset;
    return 'take';
  }

  /**
   * Keeps what belongs to a membership that is about to begin.
   * @param {LaneMessage} message
   * @param {number} size
   * @returns {number} what is kept so far
   */
  hold(message, size) {
    this.held.push(message);
    this.heldCost += costOf('') + size;
    return this.heldCost;
  }

  release() {
    this.held = [];
    this.heldCost = 0;
  }
}
