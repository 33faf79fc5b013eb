/**
 * Joins and leaves as callers ask for them: those who join the same room share one membership and give up each
 * for itself, and who joins a room that is being left waits for that.
 */
import { abortError } from './errors.js';
import { metadataText } from './wire/message.js';

/**
 * @typedef {import('./room.js').Room} Room
 * @typedef {import('./session.js').ClientSession} ClientSession
 * @typedef {import('./wire/message.js').Member} Member
 */

/**
 * @typedef {object} Effects
 * @property {(request: number, take: (value: any) => any) => Promise<any>} ask waits for the answer; `take` makes of
 *   it what is waited for, in the moment in which it comes
 * @property {(request: number, error: unknown) => void} forget nobody waits for that answer any more
 * @property {(name: string) => Room | undefined} present
 * @property {(name: string, members: Member[]) => Room} enter
 * @property {(name: string) => void} left
 */

/**
 * @typedef {object} Joining
 * @property {number} request
 * @property {number} callers who still want it
 * @property {Promise<Room>} room
 */

export class Memberships {
  /**
   * @param {ClientSession} session
   * @param {Effects} effects
   */
  constructor(session, effects) {
    this.session = session;
    this.effects = effects;
    /** @type {Map<string, Joining>} */
    this.joining = new Map();
    /** @type {Map<string, Promise<void>>} */
    this.leaving = new Map();
  }

  /**
   * @param {string} name
   * @param {Record<string, any> | undefined} metadata
   * @param {AbortSignal | undefined} signal
   * @returns {Promise<Room>}
   */
  async join(name, metadata, signal) {
    if (signal?.aborted) throw abortError(signal);
    for (let leaving = this.leaving.get(name); leaving !== undefined; leaving = this.leaving.get(name)) {
      // Where it is refused, one is still a member.
      await unlessAborted(leaving.catch(() => {}), signal);
    }
    const present = this.effects.present(name);
    if (present !== undefined) return present;
    const joining = this.joining.get(name) ?? this.begin(name, metadata);
    joining.callers += 1;
    return unlessAborted(joining.room, signal, () => this.giveUp(name, joining));
  }

  /**
   * @param {string} name
   * @param {Record<string, any> | undefined} metadata
   */
  begin(name, metadata) {
    const text = metadata === undefined ? undefined : metadataText(metadata);
    const request = this.session.join(name, text);
    /** @type {Promise<Room>} */
    const room = this.effects.ask(request, (members) => {
      // The room exists from the moment of the answer on: what follows it may be right behind.
      this.joining.delete(name);
      return this.effects.enter(name, members);
    });
    const joining = { request, callers: 0, room };
    this.joining.set(name, joining);
    room.catch(() => {
      if (this.joining.get(name) === joining) this.joining.delete(name);
    });
    return joining;
  }

  /**
   * One caller does not want it any more.
   * @param {string} name
   * @param {Joining} joining
   * @returns {boolean} false if it is a member already
   */
  giveUp(name, joining) {
    if (this.joining.get(name) !== joining) return false;
    joining.callers -= 1;
    if (joining.callers > 0) return true;
    this.joining.delete(name);
    this.effects.forget(joining.request, abortError(undefined));
    // A session that is over is in no room.
    this.leave(name).catch(() => {});
    return true;
  }

  /**
   * @param {string} name
   * @returns {Promise<void>}
   */
  async leave(name) {
    let leaving = this.leaving.get(name);
    if (leaving === undefined) {
      const request = this.session.leave(name);
      leaving = this.effects.ask(request, () => this.effects.left(name)).finally(() => this.leaving.delete(name));
      this.leaving.set(name, leaving);
    }
    return leaving;
  }
}

/**
 * What comes of a promise, unless the signal says so first and `given` up is not too late.
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal | undefined} signal
 * @param {() => boolean} [given]
 * @returns {Promise<T>}
 */
function unlessAborted(promise, signal, given = () => true) {
  return new Promise((resolve, reject) => {
    const aborted = () => {
      if (given()) reject(abortError(signal));
    };
    signal?.addEventListener('abort', aborted, { once: true });
    promise.then(resolve, reject).finally(() => signal?.removeEventListener('abort', aborted));
  });
}
