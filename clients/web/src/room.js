/** A room the client is a member of. */
import { Emitter } from './emitter.js';
import { HandoverError } from './errors.js';
import { EventStream } from './stream.js';

/**
 * @typedef {import('./client.js').Client} Client
 * @typedef {import('./wire/message.js').Lane} Lane
 * @typedef {import('./wire/message.js').Member} Member
 * @typedef {import('./session/output.js').RoomEvent} RoomEvent
 * @typedef {import('./session/output.js').Receipt} Receipt
 */

/**
 * @template {RoomEvent['type']} Type
 * @typedef {Omit<Extract<RoomEvent, {type: Type}>, 'type'>} Detail
 */

/**
 * @typedef {object} RoomEvents
 * @property {Detail<'message'>} message somebody sent something on a reliable lane
 * @property {Detail<'ephemeral'>} ephemeral somebody sent something passing
 * @property {Detail<'member_joined'>} member_joined
 * @property {Detail<'member_updated'>} member_updated
 * @property {Detail<'member_left'>} member_left
 * @property {Detail<'member_away'>} member_away
 * @property {Detail<'member_back'>} member_back
 * @property {Detail<'reset'>} reset what was missed cannot be made up for; go on from these members
 * @property {{error: HandoverError | null}} closed the membership is over; error if not by `leave` or `close`
 */

/** Events an iterator keeps for a reader that is busy. */
const BUFFER_DEFAULT = 256;

/** @extends {Emitter<RoomEvents>} */
export class Room extends Emitter {
  /** @type {Client} */
  #client;
  /** @type {Set<{wanted: (event: RoomEvent) => boolean, stream: EventStream<any>}>} */
  #feeds = new Set();
  /** @type {(() => void)[] | null} what came right behind the answer, the end included */
  #early = [];

  /**
   * @param {Client} client
   * @param {string} name
   */
  constructor(client, name) {
    super();
    /** The room's name. */
    this.name = name;
    /** @type {Map<string, Member>} Who is there, oneself included, by peer id. */
    this.members = new Map();
    /** Whether the membership is over. */
    this.isClosed = false;
    this.#client = client;
    // Whoever awaits the join listens in the moment the room is handed out, and misses
    // nothing that came in the same packet.
    setTimeout(() => this.#release(), 0);
  }

  #release() {
    const early = this.#early;
    this.#early = null;
    for (const happens of early ?? []) happens();
  }

  /** Oneself as the others see one. */
  get self() {
    return this.members.get(this.#client.peer ?? '');
  }

  /** The other members, those who joined first in front. */
  get others() {
    return [...this.members.values()].filter(({ peer }) => peer !== this.#client.peer);
  }

  /**
   * Puts a message into the room's log. Every member gets it exactly once and in order, or the
   * one it is addressed to does.
   *
   * The promise resolves once the gateway has stored it, which may be after a reconnect, and
   * rejects if the gateway refuses it for good.
   * @param {unknown} body any JSON value
   * @param {{lane?: Lane, to?: string}} [options] `signal` is delivered before `bulk`
   * @returns {Promise<Receipt>}
   */
  send(body, { lane = 'signal', to } = {}) {
    return this.#client.sendTo(this.name, lane, body, to);
  }

  /**
   * Reaches whoever is there right now, or nobody.
   * @param {unknown} body any JSON value, small enough for a datagram
   * @param {{to?: string}} [options]
   * @returns {boolean} false if it could not go out at once and was dropped
   */
  ephemeral(body, { to } = {}) {
    return this.#client.ephemeralTo(this.name, body, to);
  }

  /**
   * Replaces what one shows of oneself.
   * @param {Record<string, any>} metadata
   * @returns {Promise<void>}
   */
  update(metadata) {
    return this.#client.updateIn(this.name, metadata);
  }

  /** Ends the membership, after everything sent before has been accepted. */
  leave() {
    // Who leaves has had the room, and listens by now or never.
    this.#release();
    return this.#client.leaveRoom(this);
  }

  /**
   * The messages of the reliable lanes, from now on. Where some are missing for good the room says `reset`, to
   * its listeners and in {@link Room.events}; here the next one follows.
   * @param {{lane?: Lane, buffer?: number, signal?: AbortSignal}} [options]
   * @returns {AsyncIterableIterator<Detail<'message'>>} ends with the membership
   */
  messages({ lane, buffer, signal } = {}) {
    const wanted = (/** @type {RoomEvent} */ event) =>
      event.type === 'message' && (lane === undefined || event.lane === lane);
    return this.#stream(wanted, buffer, signal);
  }

  /**
   * Everything that happens in the room, from now on, `reset` included.
   * @param {{buffer?: number, signal?: AbortSignal}} [options]
   * @returns {AsyncIterableIterator<RoomEvent>} ends with the membership
   */
  events({ buffer, signal } = {}) {
    return this.#stream(() => true, buffer, signal);
  }

  /**
   * @param {(event: RoomEvent) => boolean} wanted
   * @param {number} buffer
   * @param {AbortSignal | undefined} signal
   * @returns {EventStream<any>}
   */
  #stream(wanted, buffer = BUFFER_DEFAULT, signal = undefined) {
    const entry = { wanted, stream: new EventStream(buffer, () => {
      this.#feeds.delete(entry);
      signal?.removeEventListener('abort', stop);
    }) };
    const stop = () => entry.stream.finish();
    if (this.isClosed || signal?.aborted) entry.stream.finish();
    else {
      this.#feeds.add(entry);
      signal?.addEventListener('abort', stop, { once: true });
    }
    return entry.stream;
  }

  /**
   * @param {RoomEvent} event
   * @internal
   */
  handle(event) {
    if (this.isClosed) return;
    if (this.#early !== null) {
      this.#early.push(() => this.handle(event));
      return;
    }
    if (event.type === 'lost') return this.finish(event.error);
    this.#apply(event);
    for (const { wanted, stream } of [...this.#feeds]) if (wanted(event)) stream.push(event);
    const { type, ...detail } = event;
    this.emit(type, /** @type {any} */ (detail));
  }

  /**
   * @param {RoomEvent} event
   */
  #apply(event) {
    if ('members' in event) this.seat(event.members);
    else if (event.type === 'member_left') this.members.delete(event.member.peer);
    else if ('member' in event) this.members.set(event.member.peer, event.member);
  }

  /**
   * @param {Member[]} members
   * @internal
   */
  seat(members) {
    this.members.clear();
    for (const member of members) this.members.set(member.peer, member);
  }

  /**
   * @param {HandoverError | null} error
   * @internal
   */
  finish(error) {
    if (this.isClosed) return;
    if (this.#early !== null) {
      this.#early.push(() => this.finish(error));
      return;
    }
    this.isClosed = true;
    for (const { stream } of [...this.#feeds]) stream.finish(error);
    this.emit('closed', { error });
  }
}
