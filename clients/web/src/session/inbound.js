/** What the connection that carries the session brings, message by message. */
import { HandoverError, retryOf } from '../errors.js';
import { LANES } from './room.js';

/** What may wait for a membership, or a connection, to begin. */
export const HELD_COST_MAX = 16 << 20;

/**
 * @typedef {import('../session.js').ClientSession} ClientSession
 * @typedef {import('../wire/message.js').ServerMessage} ServerMessage
 * @typedef {import('../wire/message.js').Snapshot} Snapshot
 * @typedef {import('../wire/message.js').Member} Member
 * @typedef {import('./room.js').RoomState} RoomState
 * @typedef {import('./room.js').LaneMessage} LaneMessage
 * @typedef {import('./output.js').RoomEvent} RoomEvent
 */

/**
 * @param {ClientSession} session
 * @param {number} now
 * @param {ServerMessage} message
 * @param {number} size of its text
 */
export function handleLive(session, now, message, size) {
  switch (message.type) {
    case 'message':
    case 'accepted':
    case 'position':
      return handleLane(session, now, message, size);
    case 'member_joined':
    case 'member_updated':
    case 'member_left':
    case 'member_away':
    case 'member_back':
      return handleMember(session, message);
    case 'ephemeral':
      return tell(session, message.room, { type: 'ephemeral', from: message.from, body: message.body });
    case 'joined':
      return handleJoined(session, now, message);
    case 'reset':
      return handleReset(session, now, message);
    case 'ok':
      return handleOk(session, message.id);
    case 'members':
      return answer(session, message.id, message.members);
    case 'ice':
      return answer(session, message.id, { iceServers: message.servers, ttl: message.ttl });
    case 'pong': {
      const { rtt = null, recovered = false } = session.liveness?.answer(message.id, now) ?? {};
      if (recovered && session.live !== null) session.emit({ type: 'recovered', link: session.live });
      if (rtt !== null) session.emit({ type: 'rtt', rtt });
      return;
    }
    case 'error':
      return handleError(session, now, message);
    case 'quality':
      return session.emit({ type: 'quality', quality: message });
    case 'moved':
      return session.emit({ type: 'moved' });
    case 'expiring':
      return session.emit({ type: 'expiring', in: message.in });
    case 'draining':
      return session.emit({ type: 'draining', reconnectIn: message.reconnect_in });
    default:
  }
}

/**
 * @param {ClientSession} session
 * @param {number} now
 * @param {LaneMessage} message
 * @param {number} size
 */
function handleLane(session, now, message, size) {
  const room = session.rooms.get(message.room);
  if (room === undefined || !LANES.includes(message.lane)) return;
  const { lane, epoch, offset } = message;
  if (message.type === 'position' && message.start) {
    if (lane === 'bulk') room.mark(epoch, offset);
    return;
  }
  // A send's number belongs to the session: it counts wherever the membership stands.
  if (message.type === 'accepted') settle(session, room, room.sends[lane].accept(message.seq), message);
  const admission = room.admit(lane, epoch, offset);
  if (admission === 'hold' && room.hold(message, size) > HELD_COST_MAX && session.live !== null) {
    return session.dropLink(now, session.live, 'out_of_step', { reason: 'a membership that does not begin' });
  }
  if (admission === 'take' && message.type === 'message') {
    const { from, to, body } = message;
    tell(session, room.name, { type: 'message', lane, epoch, offset, from, to: to ?? null, body });
  }
}

/**
 * Tells of accepted sends.
 * @param {ClientSession} session
 * @param {RoomState} room
 * @param {{id: number, seq: number}[]} items
 * @param {{epoch: string, seq?: number, offset?: number}} where
 */
function settle(session, room, items, { epoch, seq, offset }) {
  for (const item of items) {
    const known = item.seq === seq && offset !== undefined ? offset : null;
    session.emit({ type: 'sent', id: item.id, receipt: { epoch, offset: known } });
  }
  releaseLeave(session, room);
}

/**
 * @param {ClientSession} session
 * @param {RoomState} room
 */
export function releaseLeave(session, room) {
  if (room.leaving !== null && room.isDrained) session.requests.release(room.leaving);
}

/**
 * @param {ClientSession} session
 * @param {Extract<ServerMessage, {peer: string, offset: number}>} message
 */
function handleMember(session, message) {
  const room = session.rooms.get(message.room);
  if (room === undefined || room.admit('signal', message.epoch, message.offset) !== 'take') return;
  const { peer } = message;
  if (message.type === 'member_joined') {
    const { user = null, metadata, offset } = message;
    /** @type {Member} */
    const member = { peer, user, metadata, since: offset, away: false };
    room.members.set(peer, member);
    return tell(session, room.name, { type: 'member_joined', member: { ...member } });
  }
  const member = room.members.get(peer);
  if (member === undefined) return;
  switch (message.type) {
    case 'member_updated':
      member.metadata = message.metadata;
      return tell(session, room.name, { type: 'member_updated', member: { ...member } });
    case 'member_left':
      room.members.delete(peer);
      return tell(session, room.name, { type: 'member_left', member: { ...member }, reason: message.reason });
    default:
      member.away = message.type === 'member_away';
      return tell(session, room.name, { type: message.type, member: { ...member } });
  }
}

/**
 * @param {ClientSession} session
 * @param {number} now
 * @param {import('../wire/message.js').Joined} message
 */
function handleJoined(session, now, message) {
  const request = session.requests.take(message.id);
  const room = session.rooms.get(message.room);
  if (request === undefined || room === undefined) return;
  // If it is a member already, this repeats what is known and changes nothing.
  if (room.standing !== 'member') {
    session.forestall(now);
    begin(session, now, room, message, null);
  }
  if (!request.own) session.emit({ type: 'answer', id: request.id, value: members(room) });
}

/**
 * @param {ClientSession} session
 * @param {number} now
 * @param {import('../wire/message.js').Reset} message
 */
function handleReset(session, now, message) {
  const room = session.rooms.get(message.room);
  if (room === undefined) return;
  session.forestall(now);
  const joining = room.standing === 'joining';
  begin(session, now, room, message, message.reason);
  if (!joining) return;
  // The join had been applied and its answer was lost with the connection; this answers it.
  const isJoin = (/** @type {import('./requests.js').Request} */ { ask }) => ask.type === 'join' && ask.room === room.name;
  for (const request of session.requests.takeAll(isJoin)) {
    session.emit({ type: 'answer', id: request.id, value: members(room) });
  }
}

/**
 * @param {ClientSession} session
 * @param {number} now
 * @param {RoomState} room
 * @param {Snapshot} snapshot
 * @param {string | null} reason why, if it was a `reset`
 */
function begin(session, now, room, snapshot, reason) {
  const { standing } = room;
  const held = room.begin(snapshot);
  for (const lane of LANES) {
    // Where the membership went on, sends are under way on this connection: what the snapshot
    // counts is accepted and the rest will be answered. Elsewhere they start from its count.
    const sends = room.sends[lane];
    const seq = snapshot.seq[lane];
    const { accepted, uncertain } = standing === 'member' ? { accepted: sends.accept(seq), uncertain: [] } : sends.start(seq);
    session.disclaim(uncertain);
    settle(session, room, accepted, { epoch: snapshot.epoch });
  }
  if (standing !== 'joining') {
    const cause = standing === 'rejoining' ? room.cause : (reason ?? 'epoch');
    tell(session, room.name, { type: 'reset', reason: cause, members: members(room) });
  }
  for (const message of held) handleLane(session, now, message, 0);
}

/** @param {RoomState} room */
function members(room) {
  return [...room.members.values()].map((member) => ({ ...member }));
}

/**
 * @param {ClientSession} session
 * @param {number} id
 */
function handleOk(session, id) {
  const request = session.requests.take(id);
  if (request === undefined) return;
  const room = session.rooms.get(request.ask.room ?? '');
  if (room !== undefined && request.ask.type === 'leave') {
    session.abandonSends(room);
    session.rooms.delete(room.name);
  } else if (room !== undefined && request.ask.type === 'update') {
    room.metadata = request.ask.metadata;
    const self = room.members.get(session.peer ?? '');
    if (self !== undefined) self.metadata = JSON.parse(request.ask.metadata ?? '{}');
  }
  if (!request.own) session.emit({ type: 'answer', id, value: undefined });
}

/**
 * @param {ClientSession} session
 * @param {number} id
 * @param {unknown} value
 */
function answer(session, id, value) {
  if (session.requests.take(id) !== undefined) session.emit({ type: 'answer', id, value });
}

/**
 * @param {ClientSession} session
 * @param {number} now
 * @param {import('../wire/message.js').WireError} message
 */
function handleError(session, now, message) {
  const { id, room: name, lane, seq, code } = message;
  const error = new HandoverError(code, message.message, { retryAfter: message.retry_after ?? undefined });
  const request = typeof id === 'number' ? session.requests.open.get(id) : undefined;
  if (request !== undefined) {
    if (retryOf(code) === 'later' && session.requests.postpone(now, request, message.retry_after)) return;
    session.requests.take(request.id);
    return refused(session, request, error);
  }
  const room = session.rooms.get(name ?? '');
  if (room !== undefined && lane && LANES.includes(lane) && typeof seq === 'number') {
    const out = room.sends[lane].refuse(now, seq, message);
    if (out?.uncertain) session.disclaim([out]);
    else if (out !== null) session.emit({ type: 'sent', id: out.id, error });
    return releaseLeave(session, room);
  }
  if (typeof id !== 'number') session.emit({ type: 'refused', error, room: name ?? null });
}

/**
 * @param {ClientSession} session
 * @param {import('./requests.js').Request} request
 * @param {HandoverError} error
 */
function refused(session, request, error) {
  const room = session.rooms.get(request.ask.room ?? '');
  if (room !== undefined && request.ask.type === 'join' && room.standing !== 'member') {
    session.abandonSends(room);
    // A `leave` that waited for them is answered all the same.
    if (room.leaving !== null) session.requests.release(room.leaving);
    session.rooms.delete(room.name);
    if (request.own) tell(session, room.name, { type: 'lost', error });
  } else if (room !== undefined && request.ask.type === 'leave') {
    room.leaving = null;
  }
  if (!request.own) session.emit({ type: 'answer', id: request.id, error });
}

/**
 * @param {ClientSession} session
 * @param {string} room
 * @param {RoomEvent} event
 */
function tell(session, room, event) {
  if (session.rooms.has(room) || event.type === 'lost') session.emit({ type: 'room', room, event });
}
