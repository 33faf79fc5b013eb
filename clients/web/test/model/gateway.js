/**
 * A gateway small enough to be believed: rooms are arrays, links are queues, and every rule
 * stands where it can be read. Delivery is left to the test, which may lose what it likes.
 */

/** @typedef {'signal' | 'bulk'} Lane */
/** @typedef {{kind: string, from: string, session: string, seq: number, to?: string, fields: Record<string, any>}} Entry */
/** @typedef {{epoch: string, base: {signal: number, bulk: number}, logs: {signal: Entry[], bulk: Entry[]}, members: Map<string, any>}} ModelRoom */
/** @typedef {{id: string, secret: string, peer: string, applied: Map<string, number>, rooms: Set<string>, link: ModelLink | null}} ModelSession */

/** @type {Lane[]} */
const LANES = ['signal', 'bulk'];

export class ModelLink {
  constructor() {
    /** @type {{signal: string[], bulk: string[]}} To the client, per stream. */
    this.out = { signal: [], bulk: [] };
    /** @type {ModelSession | null} */
    this.session = null;
    /** @type {Map<string, {signal: number, bulk: number}>} */
    this.cursors = new Map();
    this.isOpen = true;
  }
}

export class ModelGateway {
  /** @param {(lane: Lane, message: any) => any} [refuse] an error for a send, or nothing */
  constructor(refuse = () => undefined) {
    this.refuse = refuse;
    /** @type {Map<string, ModelRoom>} */
    this.rooms = new Map();
    /** @type {Map<string, ModelSession>} */
    this.sessions = new Map();
    this.count = 0;
  }

  /** @param {string} name */
  room(name) {
    let room = this.rooms.get(name);
    if (room === undefined) {
      this.count += 1;
      room = { epoch: `e${this.count}`, base: { signal: 0, bulk: 0 }, logs: { signal: [], bulk: [] }, members: new Map() };
      this.rooms.set(name, room);
    }
    return room;
  }

  /** Everything is forgotten, as by a restart. */
  restart() {
    this.rooms.clear();
    this.sessions.clear();
  }

  /**
   * Forgets the older part of a room's logs.
   * @param {string} name
   */
  trim(name) {
    const room = this.room(name);
    for (const lane of LANES) {
      room.base[lane] += room.logs[lane].length;
      room.logs[lane] = [];
    }
  }

  /**
   * @param {ModelLink} link
   * @param {string} text
   */
  handle(link, text) {
    if (!link.isOpen) return;
    const message = JSON.parse(text);
    const { session } = link;
    if (session === null) {
      if (message.type === 'hello') this.hello(link, message);
    } else if (session.link === link) this.request(link, session, message);
    this.flush();
  }

  /**
   * @param {ModelLink} link
   * @param {any} message
   */
  say(link, message, /** @type {Lane} */ lane = 'signal') {
    if (link.isOpen) link.out[lane].push(JSON.stringify(message));
  }

  /**
   * @param {ModelLink} link
   * @param {any} message
   */
  hello(link, { resume }) {
    const known = resume && this.sessions.get(resume.session);
    if (resume && !known) {
      this.say(link, { type: 'error', code: 'session_unknown', message: '' });
      return;
    }
    this.count += 1;
    const id = `s${this.count}`;
    /** @type {ModelSession} */
    const session = known ?? { id, secret: id, peer: `p${this.count}`, applied: new Map(), rooms: new Set(), link: null };
    this.sessions.set(session.id, session);
    if (session.link !== null) {
      this.say(session.link, { type: 'close', code: 4504, reason: 'replaced' });
      session.link.isOpen = false;
    }
    session.link = link;
    link.session = session;
    const rooms = Object.fromEntries([...session.rooms].map((name) => [name, { seq: this.seq(session, name) }]));
    const lost = Object.keys(resume?.rooms ?? {}).filter((name) => !session.rooms.has(name));
    this.say(link, {
      type: 'welcome', session: session.id, secret: session.secret, peer: session.peer, user: null,
      resumed: known !== undefined, rooms, lost, heartbeat: 15_000, resume_window: 120_000,
      limits: { message_bytes: 65_536, metadata_bytes: 4_096, ephemeral_bytes: 800, room_bytes: 128, rooms: 64 },
    });
    for (const name of session.rooms) this.goOn(link, session, name, resume.rooms[name]);
  }

  /**
   * @param {ModelLink} link
   * @param {ModelSession} session
   * @param {string} name
   * @param {any} had
   */
  goOn(link, session, name, had) {
    const room = this.room(name);
    const held = LANES.every((lane) => had?.[lane] >= room.base[lane]);
    const reason = !had ? 'unlisted' : had.epoch !== room.epoch ? 'epoch' : held ? null : 'trimmed';
    if (reason === null) link.cursors.set(name, { signal: had.signal, bulk: had.bulk });
    else this.begin(link, session, name, { type: 'reset', reason });
  }

  /**
   * @param {ModelLink} link
   * @param {ModelSession} session
   * @param {string} name
   * @param {any} head
   */
  begin(link, session, name, head) {
    const room = this.room(name);
    const end = { signal: this.end(room, 'signal'), bulk: this.end(room, 'bulk') };
    const members = [...room.members.values()].map((member) => ({ ...member }));
    this.say(link, { ...head, room: name, epoch: room.epoch, ...end, seq: this.seq(session, name), members });
    this.say(link, { type: 'position', room: name, lane: 'bulk', epoch: room.epoch, offset: end.bulk, start: true }, 'bulk');
    link.cursors.set(name, end);
  }

  /**
   * @param {ModelSession} session
   * @param {string} name
   */
  seq(session, name) {
    const on = (/** @type {Lane} */ lane) => session.applied.get(`${name} ${lane}`) ?? 0;
    return { signal: on('signal'), bulk: on('bulk') };
  }

  /**
   * @param {ModelRoom} room
   * @param {Lane} lane
   */
  end(room, lane) {
    return room.base[lane] + room.logs[lane].length;
  }

  /**
   * @param {ModelLink} link
   * @param {ModelSession} session
   * @param {any} message
   */
  request(link, session, message) {
    const { id, room: name } = message;
    switch (message.type) {
      case 'join':
        if (!session.rooms.has(name)) {
          session.rooms.add(name);
          const room = this.room(name);
          const fields = { type: 'member_joined', peer: session.peer, user: null, metadata: message.metadata ?? {} };
          room.logs.signal.push({ kind: 'event', from: session.peer, session: session.id, seq: 0, fields });
          room.members.set(session.peer, { peer: session.peer, user: null, metadata: message.metadata ?? {}, since: this.end(room, 'signal'), away: false });
          this.begin(link, session, name, { type: 'joined', id });
        } else {
          const room = this.room(name);
          this.say(link, { type: 'joined', id, room: name, epoch: room.epoch, signal: 0, bulk: 0, seq: this.seq(session, name), members: [...room.members.values()] });
        }
        return;
      case 'leave':
        if (session.rooms.delete(name)) {
          const room = this.room(name);
          this.flush();
          link.cursors.delete(name);
          room.members.delete(session.peer);
          const fields = { type: 'member_left', peer: session.peer, reason: 'left' };
          room.logs.signal.push({ kind: 'event', from: session.peer, session: session.id, seq: 0, fields });
        }
        return this.say(link, { type: 'ok', id });
      case 'send':
        return this.send(link, session, message);
      case 'ping':
        return this.say(link, { type: 'pong', id });
      case 'bye':
        this.sessions.delete(session.id);
        this.say(link, { type: 'close', code: 4500, reason: 'bye' });
        link.isOpen = false;
        return;
      default:
        return this.say(link, { type: 'ok', id });
    }
  }

  /**
   * @param {ModelLink} link
   * @param {ModelSession} session
   * @param {any} message
   */
  send(link, session, { room: name, lane, seq, to, body }) {
    const about = { type: 'error', message: '', room: name, lane, seq };
    const key = `${name} ${lane}`;
    const applied = session.applied.get(key) ?? 0;
    if (!session.rooms.has(name)) return this.say(link, { ...about, code: 'not_a_member' }, lane);
    if (seq <= applied) return;
    if (seq > applied + 1) return this.say(link, { ...about, code: 'seq_gap', expected: applied + 1 }, lane);
    const refusal = this.refuse(lane, body);
    if (refusal !== undefined) return this.say(link, { ...about, ...refusal }, lane);
    session.applied.set(key, seq);
    const fields = { type: 'message', from: session.peer, to, body };
    this.room(name).logs[/** @type {Lane} */ (lane)].push({ kind: 'message', from: session.peer, session: session.id, seq, to, fields });
  }

  /** Every link is told what its cursors have not passed. */
  flush() {
    for (const session of this.sessions.values()) {
      if (session.link?.isOpen) this.flushLink(session.link, session);
    }
  }

  /**
   * @param {ModelLink} link
   * @param {ModelSession} session
   */
  flushLink(link, session) {
    for (const [name, cursor] of link.cursors) {
      const room = this.room(name);
      for (const lane of LANES) {
        for (const entry of room.logs[lane].slice(Math.max(0, cursor[lane] - room.base[lane]))) {
          cursor[lane] += 1;
          const place = { room: name, epoch: room.epoch, offset: cursor[lane] };
          const forMe = entry.to === undefined || entry.to === session.peer;
          if (entry.session === session.id && entry.seq > 0) this.say(link, { type: 'accepted', lane, ...place, seq: entry.seq }, lane);
          else if (entry.kind === 'event' && entry.from !== session.peer) this.say(link, { ...entry.fields, ...place }, lane);
          else if (entry.kind === 'message' && forMe) this.say(link, { ...entry.fields, ...place, lane }, lane);
          else this.say(link, { type: 'position', lane, ...place }, lane);
        }
      }
    }
  }
}

/**
 * Repeatable randomness (mulberry32).
 * @param {number} seed
 */
export function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
