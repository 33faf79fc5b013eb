/**
 * The messages of protocol version 1 in their JSON form.
 *
 * Bodies and metadata are turned into text once, when they are given, and that text is what
 * is counted, kept and sent.
 */

/** The protocol version spoken here. */
export const VERSION = 1;

/** @typedef {'signal' | 'bulk'} Lane A lane with a log. */
/** @typedef {'good' | 'fair' | 'poor'} QualityLevel */
/** @typedef {{signal: number, bulk: number}} PerLane */
/** @typedef {{epoch: string, signal: number, bulk: number}} Positions */

/**
 * @typedef {object} Limits
 * @property {number} message_bytes
 * @property {number} metadata_bytes
 * @property {number} ephemeral_bytes
 * @property {number} room_bytes
 * @property {number} rooms
 */

/**
 * One member of a room.
 * @typedef {object} Member
 * @property {string} peer its public name
 * @property {string | null} user who it belongs to
 * @property {Record<string, any>} metadata what it shows of itself
 * @property {number} since the offset at which it joined; who has the greater one is polite
 * @property {boolean} away whether it has had no connection for two seconds
 */

/** @typedef {{room: string, epoch: string, signal: number, bulk: number, seq: PerLane, members: Member[]}} Snapshot */
/** @typedef {{type: 'welcome', session: string, secret: string, peer: string, user: string | null, resumed: boolean, rooms?: Record<string, {seq: PerLane}>, lost?: string[], heartbeat: number, resume_window: number, limits: Limits}} Welcome */
/** @typedef {{type: 'joined', id: number} & Snapshot} Joined */
/** @typedef {{type: 'reset', reason: string} & Snapshot} Reset */
/** @typedef {{type: 'accepted', room: string, lane: Lane, epoch: string, seq: number, offset: number}} Accepted */
/** @typedef {{type: 'message', room: string, lane: Lane, epoch: string, offset: number, from: string, to?: string | null, body: any}} Message */
/** @typedef {{type: 'position', room: string, lane: Lane, epoch: string, offset: number, start?: boolean | null}} PositionMark */
/** @typedef {{type: 'member_joined', room: string, epoch: string, offset: number, peer: string, user: string | null, metadata: Record<string, any>}} MemberJoined */
/** @typedef {{type: 'member_updated', room: string, epoch: string, offset: number, peer: string, metadata: Record<string, any>}} MemberUpdated */
/** @typedef {{type: 'member_left', room: string, epoch: string, offset: number, peer: string, reason: string}} MemberLeft */
/** @typedef {{type: 'member_away' | 'member_back', room: string, epoch: string, offset: number, peer: string}} MemberPresence */
/** @typedef {{type: 'ephemeral', room: string, from: string, body: any}} Ephemeral */
/** @typedef {{type: 'members', id: number, room: string, epoch: string, signal: number, members: Member[]}} Members */
/** @typedef {{type: 'quality', rtt: number, jitter: number, loss: number, level: QualityLevel}} Quality */
/** @typedef {{type: 'ice', id: number, servers: RTCIceServer[], ttl: number}} Ice */
/** @typedef {{type: 'error', code: string, message: string, id?: number | null, room?: string | null, lane?: Lane | null, seq?: number | null, retry_after?: number | null, expected?: number | null}} WireError */
/** @typedef {{type: 'close', code: number, reason: string, retry_after?: number | null}} CloseMessage */
/**
 * From gateway to client.
 * @typedef {Welcome | Joined | Reset | Accepted | Message | PositionMark | MemberJoined
 *   | MemberUpdated | MemberLeft | MemberPresence | Ephemeral | Members | Quality | Ice
 *   | WireError | CloseMessage | {type: 'moved'} | {type: 'expiring', in: number}
 *   | {type: 'draining', reconnect_in: number} | {type: 'ok', id: number}
 *   | {type: 'pong', id: number}} ServerMessage
 */

const TEXT = 'string';
const COUNT = 'count';
const NUMBER = 'number';
const FLAG = 'boolean';
const LIST = 'list';
const OBJECT = 'object';
const ANY = 'any';

const SNAPSHOT = { room: TEXT, epoch: TEXT, signal: COUNT, bulk: COUNT, seq: OBJECT, members: LIST };
const EVENT = { room: TEXT, epoch: TEXT, offset: COUNT, peer: TEXT };

/** @type {Record<string, Record<string, string>>} The fields each message must have. */
const REQUIRED = {
  welcome: { session: TEXT, secret: TEXT, peer: TEXT, resumed: FLAG, heartbeat: COUNT, resume_window: COUNT, limits: OBJECT },
  joined: { id: COUNT, ...SNAPSHOT },
  reset: { reason: TEXT, ...SNAPSHOT },
  accepted: { room: TEXT, lane: TEXT, epoch: TEXT, seq: COUNT, offset: COUNT },
  message: { room: TEXT, lane: TEXT, epoch: TEXT, offset: COUNT, from: TEXT, body: ANY },
  position: { room: TEXT, lane: TEXT, epoch: TEXT, offset: COUNT },
  member_joined: { ...EVENT, metadata: OBJECT },
  member_updated: { ...EVENT, metadata: OBJECT },
  member_left: { ...EVENT, reason: TEXT },
  member_away: EVENT,
  member_back: EVENT,
  ephemeral: { room: TEXT, from: TEXT, body: ANY },
  members: { id: COUNT, room: TEXT, epoch: TEXT, signal: COUNT, members: LIST },
  quality: { rtt: NUMBER, jitter: NUMBER, loss: NUMBER, level: TEXT },
  moved: {},
  expiring: { in: COUNT },
  draining: { reconnect_in: COUNT },
  ok: { id: COUNT },
  pong: { id: COUNT },
  ice: { id: COUNT, servers: LIST, ttl: COUNT },
  error: { code: TEXT, message: TEXT },
  close: { code: COUNT, reason: TEXT },
};

/** The types a gateway of this version sends. */
export const SERVER_TYPES = Object.freeze(Object.keys(REQUIRED));

/**
 * @param {any} value
 * @param {string} kind
 */
function fits(value, kind) {
  switch (kind) {
    case COUNT:
      return Number.isSafeInteger(value) && value >= 0;
    case LIST:
      return Array.isArray(value);
    case OBJECT:
      return typeof value === 'object' && value !== null && !Array.isArray(value);
    case ANY:
      return value !== undefined;
    default:
      return typeof value === kind;
  }
}

/**
 * Reads a message from the gateway.
 * @param {string} text
 * @returns {ServerMessage | null} null for a type this version does not know
 * @throws {Error} if it is not what the protocol says
 */
export function decode(text) {
  const message = JSON.parse(text);
  if (!fits(message, OBJECT) || typeof message.type !== 'string') {
    throw new TypeError('not a message');
  }
  const required = Object.hasOwn(REQUIRED, message.type) ? REQUIRED[message.type] : undefined;
  if (required === undefined) return null;
  for (const [field, kind] of Object.entries(required)) {
    if (!fits(message[field], kind)) throw new TypeError(`${message.type} without ${field}`);
  }
  return message;
}

const encoder = new TextEncoder();

/**
 * Bytes a text takes on the wire.
 * @param {string} text
 */
export function byteLength(text) {
  return encoder.encode(text).length;
}

/**
 * The JSON text of a body.
 * @param {unknown} value
 * @returns {string}
 */
export function bodyText(value) {
  const text = JSON.stringify(value);
  if (text === undefined) throw new TypeError('a body must be a JSON value; undefined is none');
  return text;
}

/**
 * The JSON text of metadata, which must be an object.
 * @param {unknown} value
 * @returns {string}
 */
export function metadataText(value) {
  const text = bodyText(value);
  if (!text.startsWith('{')) throw new TypeError('metadata must be an object');
  return text;
}

/**
 * A message from client to gateway. Bodies come as the text they already are.
 * @param {Record<string, unknown>} fields undefined ones are left out
 * @param {{body?: string, metadata?: string}} [texts]
 * @returns {string}
 */
export function encode(fields, texts = {}) {
  let text = JSON.stringify(fields).slice(0, -1);
  if (texts.metadata !== undefined) text += `,"metadata":${texts.metadata}`;
  if (texts.body !== undefined) text += `,"body":${texts.body}`;
  return `${text}}`;
}

/**
 * A `send` as it stands on the wire.
 * @param {{room: string, lane: Lane, seq: number, to?: string}} fields
 * @param {string} body
 */
export function encodeSend({ room, lane, seq, to }, body) {
  return encode({ type: 'send', room, lane, seq, to }, { body });
}
