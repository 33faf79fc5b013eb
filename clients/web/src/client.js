/** What an application holds: a session with its rooms, carried over whatever works. */
import { Carrier, now } from './carrier.js';
import { Emitter } from './emitter.js';
import { abortError, Close, HandoverError } from './errors.js';
import { Memberships } from './memberships.js';
import { Renewal } from './renewal.js';
import { Room } from './room.js';
import { ClientSession } from './session.js';
import { bodyText, metadataText } from './wire/message.js';

/**
 * @typedef {import('./transport/transport.js').Transport} Transport
 * @typedef {import('./transport/transport.js').TransportKind} TransportKind
 * @typedef {import('./wire/message.js').Lane} Lane
 * @typedef {import('./wire/message.js').Quality} Quality
 * @typedef {import('./session/output.js').Output} Output
 * @typedef {import('./session/output.js').Receipt} Receipt
 * @typedef {'connecting' | 'connected' | 'reconnecting' | 'closed'} State
 */

/**
 * @typedef {object} ConnectOptions
 * @property {string | (() => string | Promise<string>)} [token] asked for anew where needed,
 *   if it is a function
 * @property {'auto' | TransportKind} [transport]
 * @property {AbortSignal} [signal] gives up connecting; afterwards it ends the session
 * @property {string} [agent] name and version of the application, for the gateway's operator
 * @property {boolean} [retry] keep trying if the gateway cannot be reached at first
 * @property {string | ArrayBuffer} [certificateHash] of a self-made certificate
 * @property {string} [webTransportUrl] where it is not at the same host and port
 * @property {import('./dial.js').Memory | null} [storage] where the last transport that
 *   worked is remembered; the page's own storage if not given
 * @property {new (url: string, protocols?: string[]) => any} [WebSocket] for platforms
 *   without one
 * @property {(entry: LogEntry) => void} [log] hears of everything from the first dial on
 */

/**
 * @typedef {object} StateChange
 * @property {State} state
 * @property {State} previous
 * @property {TransportKind | null} transport
 * @property {boolean} [resumed] whether the session went on; if not, rooms were joined anew
 * @property {number} [gapMs] how long nothing got through
 * @property {HandoverError | null} [error] why
 */

/**
 * @typedef {object} ClientEvents
 * @property {StateChange} state
 * @property {{transport: TransportKind, resumed: boolean, gapMs: number}} transport another
 *   connection carries the session
 * @property {{rtt: number}} rtt a round trip, measured
 * @property {Quality} quality as the gateway sees it
 * @property {{}} moved the connection's address changed: restart ICE
 * @property {{reconnectIn: number}} draining the gateway is about to go; the client moves itself
 * @property {{in: number}} expiring the token ends in so many milliseconds
 * @property {{error: HandoverError, room: string | null}} refused something without an answer
 *   of its own was refused
 * @property {{error: HandoverError, retryInMs: number | null}} dial_failed
 * @property {LogEntry} log what the protocol does, for debugging
 */

/**
 * @typedef {object} LogEntry
 * @property {'in' | 'out' | 'note'} direction
 * @property {number} at milliseconds since the page was opened
 * @property {Lane | 'ephemeral' | null} lane
 * @property {TransportKind | null} transport
 * @property {string} text a message as it stood on the wire, or a remark
 */

/** @typedef {{resolve: (value: any) => void, reject: (error: unknown) => void}} Waiting */

/** How long it may take to say `bye`, on another connection if need be, and to have it answered. */
const BYE_TIMEOUT_MS = 1_000;
/** @extends {Emitter<ClientEvents>} */
export class Client extends Emitter {
  /** @type {ConnectOptions} */
  #options;
  /** @type {ClientSession} */
  #session;
  /** @type {Carrier} */
  #carrier;
  /** @type {Map<string, Waiting>} who waits for an answer */
  #waiting = new Map();
  /** @type {Memberships} */
  #memberships;
  /** @type {Renewal | null} null where there is nobody to ask for tokens */
  #renewal;
  /** @type {((error: HandoverError) => void) | null} ends the wait for another transport */
  #giveUpSwitch = null;
  /** @type {number | null} since when nothing gets through */
  #downSince = null;
  /** @type {PromiseWithResolvers<void>} settled by the first connection */
  #first = withResolvers();
  /** @type {PromiseWithResolvers<void>} */
  #finished = withResolvers();

  /**
   * Use {@link connect}.
   * @param {string | URL} url
   * @param {ConnectOptions} options
   */
  constructor(url, options) {
    super();
    /** @type {State} */
    this.state = 'connecting';
    /** @type {number | null} The last round trip to the gateway, milliseconds. */
    this.rtt = null;
    /** @type {Quality | null} The path as the gateway sees it. */
    this.quality = null;
    /** @type {Map<string, Room>} The rooms joined, by name. */
    this.rooms = new Map();
    this.#options = options;
    const { agent, token, log } = options;
    this.#session = new ClientSession({ agent, token: typeof token === 'string' ? token : undefined });
    this.#carrier = new Carrier(this.#session, url, options, {
      output: (output) => this.#handleOutput(output),
      log: (entry) => this.emit('log', entry),
      logging: () => this.isHeard('log'),
      dialFailed: (error, retryInMs) => this.#dialFailed(error, retryInMs),
    });
    // Like any listener it may throw, and nothing is lost by that.
    if (log !== undefined) this.listen('log', log);
    this.#memberships = new Memberships(this.#session, {
      ask: (request, take) => this.#wait('request', request, take),
      forget: (request, error) => this.#settle(`request ${request}`, ({ reject }) => reject(error)),
      present: (name) => this.rooms.get(name),
      enter: (name, members) => this.#enter(name, members),
      left: (name) => this.#left(name),
    });
    this.#renewal = typeof token !== 'function' ? null : new Renewal({
      token,
      bring: (token) => this.refresh(token),
      failed: (error) => this.#carrier.note(`no new token: ${error}`),
    });
  }

  /** @internal */
  async start() {
    const { signal } = this.#options;
    const aborted = () => {
      if (this.state === 'connecting') this.#first.reject(abortError(signal));
      void this.close();
    };
    if (signal?.aborted) throw abortError(signal);
    signal?.addEventListener('abort', aborted, { once: true });
    void this.#finished.promise.then(() => signal?.removeEventListener('abort', aborted));
    this.#carrier.start();
    try {
      await this.#first.promise;
    } catch (error) {
      this.#session.end(null, Close.BYE);
      this.#carrier.pump();
      throw error;
    }
    return this;
  }

  /** One's public name in rooms. A new one if the session had to be started anew. */
  get peer() {
    return this.#session.peer;
  }

  /** Who the token says one is; null if anonymous. */
  get user() {
    return this.#session.user;
  }

  /** What carries the session; null while nothing does. */
  get transport() {
    return this.#carrier.transport?.kind ?? null;
  }

  /** What the gateway accepts. */
  get limits() {
    return this.#session.limits;
  }

  /** Whether a dead connection must be noticed within three seconds. Costs a ping a second. */
  get inCall() {
    return this.#session.inCall;
  }

  set inCall(inCall) {
    this.#session.setInCall(now(), inCall);
    this.#carrier.pump();
  }

  /**
   * Becomes a member of a room. Resolves to the same room if one is a member already; if one is
   * about to leave it, that comes first.
   * @param {string} name
   * @param {{metadata?: Record<string, any>, signal?: AbortSignal}} [options] metadata is
   *   shown to the other members; the signal gives up this call, and the membership only if
   *   nobody else waits for it
   * @returns {Promise<Room>}
   */
  async join(name, { metadata, signal } = {}) {
    return this.#memberships.join(name, metadata, signal);
  }

  /**
   * @param {string} name
   * @param {import('./wire/message.js').Member[]} members
   */
  #enter(name, members) {
    const room = new Room(this, name);
    room.seat(members);
    this.rooms.set(name, room);
    return room;
  }

  /** @param {string} name */
  #left(name) {
    const room = this.rooms.get(name);
    this.rooms.delete(name);
    room?.finish(null);
  }

  /**
   * Servers for `RTCPeerConnection`, and for how many seconds they are good.
   * @returns {Promise<{iceServers: RTCIceServer[], ttl: number}>}
   */
  async iceServers() {
    return this.#wait('request', this.#session.request({ type: 'ice' }));
  }

  /**
   * Brings a newer token, so that the session need not end with the old one.
   * @param {string} token
   * @returns {Promise<void>}
   */
  async refresh(token) {
    const session = this.#session;
    const before = session.token;
    const request = session.request({ type: 'refresh', token });
    // Whatever greets from now on brings it, too.
    session.token = token;
    try {
      return await this.#wait('request', request);
    } catch (error) {
      if (session.token === token) session.token = before;
      throw error;
    }
  }

  /**
   * Moves the session to another transport, without a gap. Rejects if that one does not work,
   * and then stays where it is; also, with `aborted`, if another one is asked for meanwhile.
   * @param {'auto' | TransportKind} transport
   * @returns {Promise<void>}
   */
  async switchTransport(transport) {
    if (this.#session.isOver) throw new HandoverError('closed', 'the session is over');
    this.#giveUpSwitch?.(new HandoverError('aborted', 'another transport was asked for'));
    const { reconnector } = this.#carrier;
    if (transport === 'auto' || transport === this.transport) {
      reconnector.choose(transport);
      return;
    }
    const before = reconnector.choice;
    const done = new AbortController();
    const { signal } = done;
    /** @type {PromiseWithResolvers<void>} */
    const moved = withResolvers();
    const settle = () => {
      done.abort();
      this.#giveUpSwitch = null;
    };
    const giveUp = (/** @type {HandoverError} */ error) => {
      settle();
      // At once, before anything else is dialled for it.
      reconnector.revert(before);
      moved.reject(error);
    };
    this.#giveUpSwitch = giveUp;
    this.listen('transport', (detail) => {
      if (detail.transport !== transport) return;
      settle();
      moved.resolve();
    }, { signal });
    this.listen('dial_failed', ({ error }) => giveUp(error), { signal });
    this.listen('state', ({ state, error }) => {
      if (state === 'closed') giveUp(error ?? new HandoverError('closed', 'the session is over'));
    }, { signal });
    reconnector.choose(transport);
    await moved.promise;
  }

  /**
   * Says goodbye: the session is over, the members of its rooms see it leave. What has not
   * been accepted by then is not delivered. If nothing carries the session, a second is spent on
   * getting a connection for it; in vain, the members see it expire later.
   * @returns {Promise<void>} once it is over
   */
  async close() {
    if (this.state === 'closed') return;
    this.#session.close();
    this.#carrier.pump();
    this.#carrier.reconnector.hurry();
    const timer = setTimeout(() => {
      this.#session.end(null, Close.BYE);
      this.#carrier.pump();
    }, BYE_TIMEOUT_MS);
    await this.#finished.promise;
    clearTimeout(timer);
  }

  /**
   * Cuts the connection without a word, as a dying network would. The session goes on.
   * @param {number} [holdMs] dial nothing for so long
   */
  debugDrop(holdMs = 0) {
    this.#carrier.cut(holdMs);
  }

  // What rooms ask

  /**
   * @param {string} room
   * @param {Lane} lane
   * @param {unknown} body
   * @param {string | undefined} to
   * @returns {Promise<Receipt>}
   * @internal
   */
  async sendTo(room, lane, body, to) {
    return this.#wait('send', this.#session.send(room, lane, bodyText(body), to));
  }

  /**
   * @param {string} room
   * @param {unknown} body
   * @param {string | undefined} to
   * @internal
   */
  ephemeralTo(room, body, to) {
    const text = this.#session.ephemeral(room, bodyText(body), to);
    return text !== null && this.#carrier.writeEphemeral(text);
  }

  /**
   * @param {string} name
   * @param {Record<string, any>} metadata
   * @returns {Promise<void>}
   * @internal
   */
  async updateIn(name, metadata) {
    await this.#wait('request', this.#session.update(name, metadataText(metadata)));
    const self = this.rooms.get(name)?.self;
    if (self !== undefined) self.metadata = metadata;
  }

  /**
   * @param {Room} room
   * @returns {Promise<void>}
   * @internal
   */
  async leaveRoom(room) {
    if (!room.isClosed) await this.#memberships.leave(room.name);
  }

  /**
   * @param {'request' | 'send'} kind
   * @param {number} id
   * @param {(value: any) => any} [take] makes of the answer what is waited for
   * @returns {Promise<any>}
   */
  #wait(kind, id, take = (value) => value) {
    return new Promise((resolve, reject) => {
      this.#waiting.set(`${kind} ${id}`, { resolve: (value) => resolve(take(value)), reject });
      this.#carrier.pump();
    });
  }

  /**
   * @param {string} key
   * @param {(waiting: Waiting) => void} how
   */
  #settle(key, how) {
    const waiting = this.#waiting.get(key);
    this.#waiting.delete(key);
    if (waiting !== undefined) how(waiting);
  }

  // What happens

  /**
   * @param {HandoverError} error
   * @param {number | null} retryInMs
   */
  #dialFailed(error, retryInMs) {
    this.emit('dial_failed', { error, retryInMs });
    if (this.state === 'connecting' && !(this.#options.retry && error.code === 'unreachable')) {
      this.#first.reject(error);
    }
  }

  /**
   * @param {Output} output
   */
  #handleOutput(output) {
    switch (output.type) {
      case 'room':
        return this.#handleRoom(output.room, output.event);
      case 'answer':
        return this.#settle(`request ${output.id}`, ({ resolve, reject }) =>
          'error' in output ? reject(output.error) : resolve(output.value));
      case 'sent':
        return this.#settle(`send ${output.id}`, ({ resolve, reject }) =>
          'error' in output ? reject(output.error) : resolve(output.receipt));
      case 'live':
        return this.#handleLive(output.resumed);
      case 'handing_over':
        this.#downSince ??= now();
        return;
      case 'down':
        return this.#setDown(now(), output.loss);
      case 'stalled':
        return this.#setDown(this.#session.liveness?.heard ?? now(), { reason: 'the connection went silent' });
      case 'recovered':
        return this.#setConnected(true);
      case 'rtt':
        this.rtt = output.rtt;
        return this.emit('rtt', { rtt: output.rtt });
      case 'quality':
        this.quality = output.quality;
        return this.emit('quality', output.quality);
      case 'moved':
        return this.emit('moved', {});
      case 'expiring':
        this.emit('expiring', { in: output.in });
        return void this.#renewal?.begin(output.in);
      case 'draining':
        return this.emit('draining', { reconnectIn: output.reconnectIn });
      case 'refused':
        return this.emit('refused', { error: output.error, room: output.room });
      case 'ended':
        return this.#handleEnded(output.error);
      default:
    }
  }

  /**
   * @param {string} name
   * @param {import('./session/output.js').RoomEvent} event
   */
  #handleRoom(name, event) {
    const room = this.rooms.get(name);
    if (event.type === 'lost') this.rooms.delete(name);
    room?.handle(event);
  }

  /**
   * @param {boolean} resumed
   */
  #handleLive(resumed) {
    // Its greeting has brought a token of its own.
    this.#renewal?.stop();
    this.rtt = null;
    const gapMs = this.#downSince === null ? 0 : now() - this.#downSince;
    const transport = /** @type {TransportKind} */ (this.transport);
    this.emit('transport', { transport, resumed, gapMs });
    this.#setConnected(resumed);
    this.#first.resolve();
  }

  /**
   * @param {boolean} resumed
   */
  #setConnected(resumed) {
    const gapMs = this.#downSince === null ? 0 : now() - this.#downSince;
    this.#downSince = null;
    // A connection that gave way to another one was no interruption.
    this.#setState('connected', { resumed, gapMs, error: null });
  }

  /**
   * @param {number} since
   * @param {import('./session/output.js').Loss} loss
   */
  #setDown(since, { code, reason }) {
    this.#downSince ??= since;
    const error = new HandoverError('interrupted', reason ?? 'the connection was lost', { closeCode: code });
    if (this.state === 'connected') this.#setState('reconnecting', { error });
  }

  /**
   * @param {State} state
   * @param {Partial<StateChange>} detail
   */
  #setState(state, detail) {
    // Who is about to go is told of the end alone.
    if (this.state === state || (this.#session.isOver && state !== 'closed')) return;
    const previous = this.state;
    this.state = state;
    this.emit('state', { ...detail, state, previous, transport: this.transport });
  }

  /**
   * @param {HandoverError | null} error
   */
  #handleEnded(error) {
    this.#renewal?.stop();
    for (const room of this.rooms.values()) room.finish(error);
    this.rooms.clear();
    if (error !== null) this.#first.reject(error);
    this.#setState('closed', { error });
    this.#finished.resolve();
  }
}

/**
 * Connects to a gateway.
 * @param {string | URL} url its address: `https://host:port`, or the plain-HTTP listener's
 * @param {ConnectOptions} [options]
 * @returns {Promise<Client>}
 */
export function connect(url, options = {}) {
  return new Client(url, options).start();
}

/**
 * @template T
 * @returns {PromiseWithResolvers<T>}
 */
function withResolvers() {
  /** @type {Partial<PromiseWithResolvers<T>>} */
  const resolvers = {};
  const promise = new Promise((resolve, reject) => Object.assign(resolvers, { resolve, reject }));
  return /** @type {PromiseWithResolvers<T>} */ ({ ...resolvers, promise });
}
