/**
 * The client's end of a session: everything the protocol asks of a client, without a socket,
 * a clock or a timer. The mirror of the gateway's `ServerSession`.
 *
 * Messages go in through {@link ClientSession.handleMessage}, what is to be written comes out
 * of {@link ClientSession.transmit} lane by lane, and what happened out of
 * {@link ClientSession.pollOutput}. Time is whatever the caller says it is, in milliseconds.
 *
 * A session is carried by one connection (a link) at a time. A further one may greet
 * meanwhile; the moment it is welcomed it carries the session and the older one is closed, so
 * that moving from one network or transport to another leaves no gap.
 */
import { Close, HandoverError, mayReturn, retryOf } from './errors.js';
import { Commands, LIMITS } from './session/commands.js';
import { handleLive, HELD_COST_MAX, releaseLeave } from './session/inbound.js';
import { Liveness, PACE_IN_CALL, paceIdle } from './session/liveness.js';
import { LANES } from './session/room.js';
import { decode, encode, encodeSend, VERSION } from './wire/message.js';

/**
 * @typedef {import('./session/output.js').Output} Output
 * @typedef {import('./session/output.js').Loss} Loss
 * @typedef {import('./wire/message.js').Lane} Lane
 * @typedef {import('./session/room.js').RoomState} RoomState
 * @typedef {import('./wire/message.js').ServerMessage} ServerMessage
 */

/** How long a gateway may take to answer `hello`. */
export const WELCOME_TIMEOUT_MS = 4_000;
/** How long a greeting that was given up may take to arrive all the same. */
const STRAY_MS = 60_000;

/**
 * @typedef {object} Link
 * @property {number} id
 * @property {boolean} helloDue
 * @property {Set<string> | null} listed the rooms named in `resume`; null if it greeted afresh
 * @property {number} greetedBehind the last request made before its greeting, whose token is at
 *   least as new as any that those bring
 * @property {number} deadline for `welcome`
 * @property {{message: ServerMessage, size: number}[]} early what the bulk stream brought
 *   before the signal stream brought `welcome`
 * @property {number} earlySize
 */

export class ClientSession extends Commands {
  /** @param {{agent?: string, token?: string}} [options] */
  constructor({ agent, token } = {}) {
    super();
    this.agent = agent;
    /** Goes into the next `hello`. */
    this.token = token;
    this.heartbeatMs = 15_000;
    this.resumeWindowMs = 120_000;
    /** @type {{session: string, secret: string} | null} */
    this.identity = null;
    /** @type {string | null} */
    this.peer = null;
    /** @type {string | null} */
    this.user = null;
    /** @type {Map<number, Link>} greeting, not carrying the session */
    this.greeting = new Map();
    /** @type {Liveness | null} of that link */
    this.liveness = null;
    /** Until then a `resume` of ours that we gave up may still take the session from us. */
    this.strayUntil = -Infinity;
    /** @type {number | null} the link that gave way to one which has not been welcomed yet */
    this.handingOver = null;
    /** @type {number | null} the link that carries the session */
    this.live = null;
    this.ended = false;
    this.inCall = false;
    this.byeDue = false;
    this.saidBye = false;
    this.turn = 0;
    /** @type {Output[]} */
    this.outputs = [];
  }

  get isOver() {
    return this.ended || this.byeDue;
  }

  get isCarried() {
    return this.live !== null;
  }

  // Links

  /**
   * A connection is open and may greet.
   * @param {number} now
   * @param {number} id never used before
   */
  handleOpened(now, id) {
    if (this.ended) return this.emit({ type: 'close_link', link: id, why: 'ended' });
    const deadline = now + WELCOME_TIMEOUT_MS;
    this.greeting.set(id, { id, helloDue: true, listed: null, greetedBehind: 0, deadline, early: [], earlySize: 0 });
  }

  /**
   * A connection is gone. `loss` is what its transport knows about why.
   * @param {number} now
   * @param {number} id
   * @param {Loss} [loss]
   */
  handleClosed(now, id, loss = {}) {
    if (this.ended) return;
    const { code } = loss;
    if (id === this.live) {
      this.live = null;
      this.liveness = null;
      // A gateway that takes a newer connection of ours says so to the older one, perhaps
      // before the newer one hears its welcome. Only a stranger's connection ends us.
      const ours = code === Close.REPLACED && this.isTakingOver(now);
      if (!ours && !mayReturn(code)) return this.endByCode(code, loss.reason);
      this.handingOver = ours && this.greeting.size > 0 ? id : null;
      if (this.handingOver !== null) this.emit({ type: 'handing_over', link: id });
      else this.emit({ type: 'down', link: id, loss: ours ? {} : loss });
    } else if (this.greeting.has(id)) {
      // A later greeting of ours, or one that was given up, has replaced this one.
      const ours = code === Close.REPLACED && this.isTakingOver(now, id);
      this.abandonGreeting(now, id);
      // We did say hello; if that did not arrive, or the bulk stream did not, it is the path's
      // fault and another one may do.
      const timedOut = code === Close.HELLO_TIMEOUT;
      if (this.live === null && !ours && !timedOut && !mayReturn(code)) return this.endByCode(code, loss.reason);
      this.emit({ type: 'link_failed', link: id, loss, timedOut });
      this.failHandingOver();
    }
  }

  /**
   * A link will not be welcomed.
   * @param {number} now
   * @param {number} id
   */
  abandonGreeting(now, id) {
    // What it said may still be on its way.
    if (this.greeting.get(id)?.listed) this.strayUntil = now + STRAY_MS;
    this.greeting.delete(id);
  }

  /**
   * A room starts on what carries the session. Greetings under way say where it was before that, or nothing
   * of it: they would be answered by one more start, which skips what comes here meanwhile. Better to greet
   * once more.
   * @param {number} now
   */
  forestall(now) {
    for (const { id, listed } of [...this.greeting.values()]) {
      if (listed === null) continue;
      this.abandonGreeting(now, id);
      this.emit({ type: 'forestalled', link: id });
      this.emit({ type: 'close_link', link: id, why: 'not_now' });
    }
  }

  /** What was to take the session over did not: then it is down after all. */
  failHandingOver() {
    if (this.handingOver === null || this.greeting.size > 0) return;
    this.emit({ type: 'down', link: this.handingOver, loss: {} });
    this.handingOver = null;
  }

  /**
   * Whether a greeting of ours may take the session over, other than that of `except`.
   * @param {number} now
   * @param {number} [except]
   */
  isTakingOver(now, except) {
    return now < this.strayUntil || [...this.greeting.values()].some(({ id, listed }) => id !== except && listed !== null);
  }

  /**
   * Takes one message.
   * @param {number} now
   * @param {number} id
   * @param {string} text
   */
  handleMessage(now, id, text) {
    if (this.ended) return;
    const link = this.greeting.get(id);
    if (link === undefined && id !== this.live) return;
    let message;
    try {
      message = decode(text);
    } catch (error) {
      return this.dropLink(now, id, 'out_of_step', { reason: `a message that cannot be read: ${error}` });
    }
    if (message === null) return;
    if (message.type === 'close') {
      const loss = { code: message.code, reason: message.reason, retryAfter: message.retry_after ?? undefined };
      return this.dropLink(now, id, 'by_gateway', loss);
    }
    if (link !== undefined) return this.handleGreeting(now, link, message, text.length);
    this.liveness?.hear(now, message.type);
    handleLive(this, now, message, text.length);
  }

  /**
   * @param {number} now
   * @param {Link} link
   * @param {ServerMessage} message
   * @param {number} size of its text
   */
  handleGreeting(now, link, message, size) {
    if (message.type === 'welcome') return this.welcomed(now, link, message);
    if (message.type !== 'error' || message.lane) {
      link.early.push({ message, size });
      link.earlySize += size;
      if (link.earlySize > HELD_COST_MAX) this.dropLink(now, link.id, 'out_of_step', { reason: 'no welcome before all that' });
      return;
    }
    if (message.code === 'session_unknown' && link.listed !== null && this.live === null) {
      // Nobody is left to say goodbye for.
      if (this.byeDue) return this.end(null, Close.BYE);
      this.forgetSession();
      link.helloDue = true;
      link.listed = null;
      link.deadline = now + WELCOME_TIMEOUT_MS;
      return;
    }
    const retryAfter = message.retry_after ?? undefined;
    const error = new HandoverError(message.code, message.message, { retryAfter });
    if (this.live === null && retryOf(message.code) === 'never' && message.code !== 'session_unknown') {
      return this.end(this.byeDue ? null : error, null);
    }
    // A working connection is not given up for one that was refused.
    this.greeting.delete(link.id);
    this.emit({ type: 'link_failed', link: link.id, loss: { reason: message.message, retryAfter }, timedOut: false });
    this.emit({ type: 'close_link', link: link.id, why: 'not_now' });
    this.failHandingOver();
  }

  /**
   * @param {number} now
   * @param {Link} link
   * @param {import('./wire/message.js').Welcome} welcome
   */
  welcomed(now, link, welcome) {
    if (!welcome.resumed && this.identity !== null) this.forgetSession();
    this.greeting.delete(link.id);
    const older = this.live;
    this.live = link.id;
    this.handingOver = null;
    this.identity = { session: welcome.session, secret: welcome.secret };
    this.peer = welcome.peer;
    this.user = welcome.user ?? null;
    this.limits = { ...LIMITS, ...welcome.limits };
    // What was said on an older connection may not have arrived.
    this.saidBye = false;
    this.heartbeatMs = welcome.heartbeat;
    this.resumeWindowMs = welcome.resume_window;
    this.liveness = new Liveness(now, this.pace());
    // The greeting has brought their token or a newer one; by now theirs may have ended.
    const brought = this.requests.takeAll(({ id, ask }) => ask.type === 'refresh' && id <= link.greetedBehind);
    for (const { id } of brought) this.emit({ type: 'answer', id, value: undefined });
    this.requests.repeat();
    for (const room of this.rooms.values()) {
      this.carryOver(room, welcome.resumed ? welcome.rooms?.[room.name] : undefined, link.listed);
    }
    if (older !== null) this.emit({ type: 'close_link', link: older, why: 'replaced' });
    // Which of several greetings the gateway heard last cannot be known from here. Should it
    // have been another one, this link will be told so and the session resumed once more.
    for (const other of [...this.greeting.keys()]) {
      this.abandonGreeting(now, other);
      this.emit({ type: 'close_link', link: other, why: 'replaced' });
    }
    this.emit({ type: 'live', link: link.id, resumed: welcome.resumed, peer: welcome.peer, user: this.user });
    for (const { message, size } of link.early) handleLive(this, now, message, size);
  }

  /**
   * A room on the connection that has just been welcomed.
   * @param {RoomState} room
   * @param {{seq: import('./wire/message.js').PerLane} | undefined} known what the gateway has
   *   of it; undefined if the session is no member there
   * @param {Set<string> | null} listed
   */
  carryOver(room, known, listed) {
    if (known !== undefined) {
      // Where a membership is to begin, sends go on from what its start says.
      if (room.standing === 'member') {
        for (const lane of LANES) this.disclaim(room.sends[lane].resume(known.seq[lane]));
        releaseLeave(this, room);
      }
      if (room.standing === 'member' && listed?.has(room.name)) room.goOn();
      else room.awaitStart();
      return;
    }
    room.fallBack('rejoined');
    if (room.leaving !== null) {
      // The leave may have been applied: its repetition is answered either way.
      this.abandonSends(room);
      this.requests.release(room.leaving);
      return;
    }
    if (room.standing !== 'rejoining') return;
    this.requests.takeAll((request) => request.own && request.ask.room === room.name);
    this.requests.push({ type: 'join', room: room.name, metadata: room.metadata }, { own: true });
  }

  /**
   * The gateway has lost what it knew of these sends.
   * @param {{id: number}[]} uncertain
   */
  disclaim(uncertain) {
    for (const { id } of uncertain) {
      const error = new HandoverError('uncertain', 'the gateway has lost what it knew of it; it may or may not have arrived');
      this.emit({ type: 'sent', id, error });
    }
  }

  /** The gateway does not know the session any more: whatever was under way is uncertain. */
  forgetSession() {
    this.identity = null;
    for (const room of this.rooms.values()) {
      room.fallBack('new_session');
      for (const lane of LANES) {
        for (const item of room.sends[lane].disown()) {
          const error = new HandoverError('uncertain', 'lost with the session; it may or may not have arrived');
          this.emit({ type: 'sent', id: item.id, error });
        }
      }
    }
  }

  /**
   * @param {number} now
   * @param {number} id
   * @param {string} why
   * @param {Loss} loss
   */
  dropLink(now, id, why, loss) {
    this.handleClosed(now, id, loss);
    this.emit({ type: 'close_link', link: id, why });
  }

  // What goes out

  /**
   * The next message to write on a link's lane.
   * @param {number} now
   * @param {number} id
   * @param {Lane} lane
   * @returns {string | null}
   */
  transmit(now, id, lane) {
    const link = this.greeting.get(id);
    if (link !== undefined) return lane === 'signal' ? this.hello(link) : null;
    if (id !== this.live || this.ended) return null;
    if (lane === 'signal') {
      if (this.byeDue) return this.bye();
      if (this.liveness?.wantsPing(now)) {
        const number = this.requests.number();
        this.liveness.ask(number, now);
        return encode({ type: 'ping', id: number });
      }
      const request = this.requests.transmit(now);
      if (request !== null) {
        const { type, metadata, ...ask } = request.ask;
        return encode({ type, id: request.id, ...ask }, { metadata });
      }
    } else if (this.byeDue) return null;
    return this.nextSend(now, lane);
  }

  /** @param {Link} link */
  hello(link) {
    if (!link.helloDue) return null;
    link.helloDue = false;
    link.greetedBehind = this.requests.last;
    const greeting = { type: 'hello', version: VERSION, token: this.token, agent: this.agent };
    if (this.identity === null) return encode(greeting);
    const listed = [...this.rooms.values()].filter((room) => room.positions !== null);
    link.listed = new Set(listed.map((room) => room.name));
    const rooms = Object.fromEntries(listed.map((room) => [room.name, { ...room.positions }]));
    return encode({ ...greeting, resume: { ...this.identity, rooms } });
  }

  bye() {
    if (this.saidBye) return null;
    this.saidBye = true;
    return encode({ type: 'bye' });
  }

  /**
   * Rooms take turns, so that a busy one does not keep the others waiting.
   * @param {number} now
   * @param {Lane} lane
   */
  nextSend(now, lane) {
    const rooms = [...this.rooms.values()];
    for (let step = 1; step <= rooms.length; step += 1) {
      const index = (this.turn + step) % rooms.length;
      const room = /** @type {RoomState} */ (rooms[index]);
      if (room.standing !== 'member') continue;
      const item = room.sends[lane].transmit(now);
      if (item === null) continue;
      this.turn = index;
      return encodeSend({ room: room.name, lane, seq: item.seq, to: item.to }, item.body);
    }
    return null;
  }

  // Time

  /** When {@link ClientSession.handleTimeout} has something to do; Infinity for never. */
  due() {
    let due = this.live === null ? Infinity : Math.min(this.liveness?.due() ?? Infinity, this.requests.due());
    for (const link of this.greeting.values()) due = Math.min(due, link.deadline);
    if (this.live === null) return due;
    for (const sends of this.lanesUnderWay()) due = Math.min(due, sends.due());
    return due;
  }

  /** Of a room that the connection has not taken up nothing is under way. */
  lanesUnderWay() {
    const attached = [...this.rooms.values()].filter((room) => room.standing === 'member');
    return attached.flatMap((room) => LANES.map((lane) => room.sends[lane]));
  }

  /** @param {number} now */
  handleTimeout(now) {
    for (const link of [...this.greeting.values()]) {
      if (now < link.deadline) continue;
      this.abandonGreeting(now, link.id);
      this.emit({ type: 'link_failed', link: link.id, loss: { reason: 'no welcome came in time' }, timedOut: true });
      this.emit({ type: 'close_link', link: link.id, why: 'no_welcome' });
      this.failHandingOver();
    }
    if (this.live === null) return;
    if (this.liveness?.handleTimeout(now)) this.emit({ type: 'stalled', link: this.live });
    this.requests.handleTimeout(now);
    let late = false;
    for (const sends of this.lanesUnderWay()) {
      sends.handleTimeout(now);
      late ||= sends.isOutOfStep(now);
    }
    if (late) this.dropLink(now, this.live, 'out_of_step', { reason: 'sends were left unanswered' });
  }

  pace() {
    return this.inCall ? PACE_IN_CALL : paceIdle(this.heartbeatMs);
  }

  /**
   * In a call a dead link must be noticed sooner.
   * @param {number} now
   * @param {boolean} inCall
   */
  setInCall(now, inCall) {
    this.inCall = inCall;
    this.liveness?.setPace(this.pace(), now);
  }

  /**
   * Asks whether the link still lives, and gives it up after `deadMs` without an answer.
   * @param {number} now
   * @param {number} deadMs
   */
  probe(now, deadMs) {
    this.liveness?.probe(now, deadMs);
  }

  // The end

  /** Says `bye`, on the next connection if there is none; the session is over once that is answered. */
  close() {
    if (this.ended) return;
    this.byeDue = true;
    if (this.identity === null) this.end(null, Close.BYE);
  }

  /**
   * @param {number | undefined} code
   * @param {string | undefined} reason
   */
  endByCode(code, reason) {
    if (this.byeDue) return this.end(null, code ?? Close.BYE);
    this.end(new HandoverError('closed', reason ?? `closed with ${code}`, { closeCode: code }), code ?? null);
  }

  /**
   * @param {HandoverError | null} error
   * @param {number | null} code
   */
  end(error, code) {
    if (this.ended) return;
    this.ended = true;
    const links = [...this.greeting.keys(), ...(this.live === null ? [] : [this.live])];
    for (const link of links) this.emit({ type: 'close_link', link, why: 'ended' });
    this.greeting.clear();
    this.live = null;
    this.liveness = null;
    for (const room of this.rooms.values()) this.abandonSends(room);
    const over = error ?? new HandoverError('closed', 'the session is over', { closeCode: code ?? undefined });
    for (const request of this.requests.takeAll(() => true)) {
      if (!request.own) this.emit({ type: 'answer', id: request.id, error: over });
    }
    this.emit({ type: 'ended', error, code });
  }

  /** @param {RoomState} room */
  abandonSends(room) {
    for (const lane of LANES) {
      for (const { id, uncertain } of room.sends[lane].abandon()) {
        const error = uncertain
          ? new HandoverError('uncertain', 'it may or may not have arrived')
          : new HandoverError('not_sent', 'the membership ended before it went out');
        this.emit({ type: 'sent', id, error });
      }
    }
  }

  // What happened

  /** @param {Output} output */
  emit(output) {
    this.outputs.push(output);
  }

  /** @returns {Output | null} */
  pollOutput() {
    return this.outputs.shift() ?? null;
  }
}

