/**
 * What the user asks of a session: checked against what the gateway takes before it is kept,
 * because a message that is too large would end the connection.
 */
import { HandoverError } from '../errors.js';
import { byteLength, encode, encodeSend } from '../wire/message.js';
import { Requests } from './requests.js';
import { RoomState } from './room.js';

/**
 * @typedef {import('../wire/message.js').Lane} Lane
 * @typedef {import('../wire/message.js').Limits} Limits
 */

/** What may wait to be accepted in one room's lane. */
export const OUTBOX_COST_MAX = 4 << 20;
/** Requests that may wait for their answers. */
const REQUESTS_MAX = 256;

/** @type {Limits} Until the gateway says otherwise. */
export const LIMITS = Object.freeze({ message_bytes: 65_536, metadata_bytes: 4_096, ephemeral_bytes: 800, room_bytes: 128, rooms: 64 });

/** The part of a session that the user speaks to. */
export class Commands {
  limits = LIMITS;
  /** @type {Map<string, RoomState>} */
  rooms = new Map();
  requests = new Requests();
  sendId = 0;

  /** Whether nothing more can be asked. */
  get isOver() {
    return false;
  }

  /** Whether a connection carries the session. */
  get isCarried() {
    return false;
  }

  /**
   * @param {string} name
   * @param {string | undefined} metadata JSON text
   * @returns {number} the request; answered with the members
   */
  join(name, metadata) {
    this.checkOpen();
    if (this.rooms.has(name)) throw new HandoverError('bad_request', 'already in this room, or still leaving it');
    if (name === '' || byteLength(name) > this.limits.room_bytes) {
      throw new HandoverError('bad_request', `a room's name has 1 to ${this.limits.room_bytes} bytes`);
    }
    this.checkMetadata(metadata);
    this.rooms.set(name, new RoomState(name, metadata));
    return this.requests.push({ type: 'join', room: name, metadata });
  }

  /**
   * @param {string} name
   * @returns {number} the request; it goes out once everything sent before it is answered
   */
  leave(name) {
    // Nobody has to stay because too much waits: of these there is one a room at most.
    this.checkNotOver();
    const room = this.roomOf(name);
    const withheld = !room.isDrained;
    room.leaving = this.requests.push({ type: 'leave', room: name }, { withheld });
    return room.leaving;
  }

  /**
   * @param {string} name
   * @param {string} metadata JSON text
   */
  update(name, metadata) {
    this.checkOpen();
    this.roomOf(name);
    this.checkMetadata(metadata);
    return this.requests.push({ type: 'update', room: name, metadata });
  }

  /**
   * @param {{type: 'members', room: string} | {type: 'ice'} | {type: 'refresh', token: string}} ask
   * @returns {number} the request
   */
  request(ask) {
    this.checkOpen();
    if (ask.type === 'members') this.roomOf(ask.room);
    return this.requests.push(ask);
  }

  /**
   * Puts something into a room's log.
   * @param {string} name
   * @param {Lane} lane
   * @param {string} body JSON text
   * @param {string} [to]
   * @returns {number} the send
   */
  send(name, lane, body, to) {
    this.checkOpen();
    const room = this.roomOf(name);
    const sends = room.sends[lane];
    if (sends.cost + body.length > OUTBOX_COST_MAX) {
      throw new HandoverError('outbox_full', 'too much is waiting to be accepted on this lane');
    }
    const largest = encodeSend({ room: name, lane, seq: Number.MAX_SAFE_INTEGER, to }, body);
    this.checkSize('the message', byteLength(largest), this.limits.message_bytes);
    this.sendId += 1;
    sends.push(this.sendId, to, body);
    return this.sendId;
  }

  /**
   * A message for whoever is there now.
   * @param {string} name
   * @param {string} body JSON text
   * @param {string} [to]
   * @returns {string | null} null while nothing carries the session: it is not worth keeping
   */
  ephemeral(name, body, to) {
    this.checkOpen();
    const room = this.roomOf(name);
    this.checkSize('an ephemeral body', byteLength(body), this.limits.ephemeral_bytes);
    if (!this.isCarried || room.standing !== 'member') return null;
    return encode({ type: 'ephemeral', room: name, to }, { body });
  }

  checkNotOver() {
    if (this.isOver) throw new HandoverError('closed', 'the session is over');
  }

  checkOpen() {
    this.checkNotOver();
    if (this.requests.size >= REQUESTS_MAX) {
      throw new HandoverError('outbox_full', 'too many requests are waiting for answers');
    }
  }

  /** @param {string | undefined} metadata */
  checkMetadata(metadata) {
    if (metadata !== undefined) this.checkSize('metadata', byteLength(metadata), this.limits.metadata_bytes);
  }

  /**
   * @param {string} what
   * @param {number} size
   * @param {number} limit
   */
  checkSize(what, size, limit) {
    if (size > limit) throw new HandoverError('too_large', `${what} has ${size} bytes; the gateway takes ${limit}`);
  }

  /** @param {string} name */
  roomOf(name) {
    const room = this.rooms.get(name);
    if (room === undefined || room.leaving !== null) throw new HandoverError('not_a_member', 'not in this room');
    return room;
  }
}
