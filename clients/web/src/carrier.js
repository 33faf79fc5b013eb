/**
 * Keeps a session carried: opens connections when they are needed, moves messages between
 * them and the session, and keeps the session's time.
 */
import { dial, inTime, pageMemory, remember } from './dial.js';
import { findEndpoints } from './endpoints.js';
import { Close } from './errors.js';
import { watchHints } from './hints.js';
import { Reconnector } from './reconnect.js';
import { LANES } from './session/room.js';
import { hasWebTransport } from './transport/webtransport.js';

/**
 * @typedef {import('./client.js').ConnectOptions} ConnectOptions
 * @typedef {import('./client.js').LogEntry} LogEntry
 * @typedef {import('./errors.js').HandoverError} HandoverError
 * @typedef {import('./session.js').ClientSession} ClientSession
 * @typedef {import('./session/output.js').Output} Output
 * @typedef {import('./transport/transport.js').Transport} Transport
 * @typedef {import('./transport/transport.js').TransportKind} TransportKind
 * @typedef {import('./wire/message.js').Lane} Lane
 */

/** How long a connection may take to prove that it still works, when there is doubt. */
const PROBE_MAX_MS = 1_000;
const PROBE_MIN_MS = 200;
/** A path that answers may take so many of its round trips for it. */
const PROBE_ROUND_TRIPS = 4;
/** `setTimeout` cannot wait longer. */
const TIMER_MAX_MS = 2 ** 31 - 1;

/**
 * @typedef {object} CarrierEvents
 * @property {(output: Output) => void} output what the session has to say
 * @property {(entry: LogEntry) => void} log
 * @property {() => boolean} logging whether anybody reads it
 * @property {(error: HandoverError, retryInMs: number | null) => void} dialFailed
 */

export class Carrier {
  /**
   * @param {ClientSession} session
   * @param {string | URL} url
   * @param {ConnectOptions} options
   * @param {CarrierEvents} events
   */
  constructor(session, url, options, events) {
    this.session = session;
    this.url = url;
    this.options = options;
    this.events = events;
    /** @type {Map<number, Transport>} */
    this.links = new Map();
    this.lastLink = 0;
    /** @type {number | null} the one that carries the session */
    this.liveLink = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.pumping = false;
    this.memory = options.storage === undefined ? pageMemory() : options.storage;
    /** @type {import('./dial.js').Endpoints | null} as last found */
    this.endpoints = null;
    /** @type {number | null} the last round trip on what carries the session */
    this.rtt = null;
    this.reconnector = new Reconnector({
      dial: (choice, signal) => this.dial(choice, signal),
      opened: (transport) => this.opened(transport),
      failed: (error, retryInMs) => this.dialFailed(error, retryInMs),
      canPromote: () => hasWebTransport() && (this.endpoints?.webtransport !== null || this.endpoints.isGuess === true),
      now,
    }, options.transport ?? 'auto');
    this.unwatch = () => {};
  }

  get transport() {
    return this.liveLink === null ? undefined : this.links.get(this.liveLink);
  }

  start() {
    this.unwatch = watchHints((hint) => this.hinted(hint));
    this.reconnector.dialNow();
  }

  stop() {
    this.unwatch();
    this.reconnector.stop();
    this.liveLink = null;
  }

  /** @param {number} holdMs */
  cut(holdMs) {
    if (this.transport === undefined) return;
    this.note(`connection cut on purpose${holdMs > 0 ? `, dialling held back for ${holdMs} ms` : ''}`);
    if (holdMs > 0) this.reconnector.hold(holdMs);
    this.transport.abort();
  }

  /**
   * @param {'auto' | TransportKind} choice
   * @param {AbortSignal} signal
   */
  async dial(choice, signal) {
    const { token, certificateHash, webTransportUrl, WebSocket } = this.options;
    // The page may have to fetch it, on a network on which that never ends. A text may have had a newer one since.
    if (typeof token === 'function') this.session.token = await inTime(token(), signal, 'no token came in time');
    const webTransport = choice !== 'websocket' && hasWebTransport();
    this.note(`dialling (${choice})`);
    // A gateway that was started anew may show another certificate: ask every time.
    const endpoints = await findEndpoints(this.url, { certificateHash, webTransportUrl, webTransport, signal, known: this.endpoints });
    if (webTransport) this.endpoints = endpoints;
    return dial(endpoints, { transport: choice, signal, memory: this.memory, WebSocket });
  }

  /** @param {Transport} transport */
  opened(transport) {
    this.lastLink += 1;
    const id = this.lastLink;
    this.links.set(id, transport);
    this.note(`connection ${id} open (${transport.kind})`);
    this.session.handleOpened(now(), id);
    transport.listen({
      message: (lane, text) => {
        if (!this.links.has(id)) return;
        this.log('in', lane, transport, text);
        this.session.handleMessage(now(), id, text);
        this.pump();
      },
      writable: () => this.pump(),
      closed: (loss) => {
        if (!this.links.has(id)) return;
        this.note(`connection ${id} lost${loss.reason ? `: ${loss.reason}` : ''}`);
        this.session.handleClosed(now(), id, loss);
        this.pump();
        this.links.delete(id);
      },
    });
    this.pump();
  }

  /**
   * @param {HandoverError} error
   * @param {number | null} retryInMs
   */
  dialFailed(error, retryInMs) {
    const again = retryInMs === null ? '' : `; again in ${Math.round(retryInMs)} ms`;
    this.note(`${error.message}${again}`);
    this.events.dialFailed(error, retryInMs);
  }

  /** @param {import('./hints.js').Hint} hint */
  hinted(hint) {
    this.note(`hint: ${hint}`);
    switch (hint) {
      case 'online':
      case 'changed':
        // That a WebSocket had to do says nothing about another network.
        this.remember('webtransport');
        return this.reconnector.hinted();
      case 'shown':
        return this.reconnector.hinted();
      case 'woken':
        return this.reconnector.woken();
      default:
        // Nothing says that there is another network to dial on, so what there is is asked.
        if (this.liveLink === null) return;
        this.session.probe(now(), this.probeMs());
        this.pump();
    }
  }

  probeMs() {
    if (this.rtt === null) return PROBE_MAX_MS;
    return Math.min(PROBE_MAX_MS, PROBE_MIN_MS + PROBE_ROUND_TRIPS * this.rtt);
  }

  /** Moves everything that can move. */
  pump() {
    // What happens meanwhile is moved by the loop already running.
    if (this.pumping) return;
    this.pumping = true;
    try {
      let moved = true;
      while (moved) {
        moved = false;
        for (let output = this.session.pollOutput(); output !== null; output = this.session.pollOutput()) {
          this.handleOutput(output);
          moved = true;
        }
        for (const [id, transport] of this.links) moved = this.write(id, transport) || moved;
      }
    } finally {
      this.pumping = false;
    }
    this.setTimer();
  }

  setTimer() {
    clearTimeout(this.timer);
    const due = this.session.due();
    if (due === Infinity) return;
    const wait = Math.min(Math.max(Math.ceil(due - now()), 0), TIMER_MAX_MS);
    this.timer = setTimeout(() => {
      this.session.handleTimeout(now());
      this.pump();
    }, wait);
  }

  /**
   * @param {number} id
   * @param {Transport} transport
   */
  write(id, transport) {
    let wrote = false;
    for (const lane of LANES) {
      while (transport.writable(lane)) {
        const text = this.session.transmit(now(), id, lane);
        if (text === null) break;
        this.log('out', lane, transport, text);
        transport.send(lane, text);
        wrote = true;
      }
    }
    return wrote;
  }

  /**
   * @param {string} text
   * @returns {boolean} false if it was dropped
   */
  writeEphemeral(text) {
    const { transport } = this;
    if (transport === undefined || !transport.sendEphemeral(text)) return false;
    this.log('out', 'ephemeral', transport, text);
    return true;
  }

  /** @param {Output} output */
  handleOutput(output) {
    switch (output.type) {
      case 'live':
        this.becameLive(output.link, output.resumed);
        break;
      case 'handing_over':
        this.liveLink = null;
        break;
      case 'down':
        if (this.liveLink === output.link) this.liveLink = null;
        this.reconnector.lost(output.loss.retryAfter);
        break;
      case 'stalled':
        this.note('the connection has gone silent');
        this.reconnector.stalled();
        break;
      case 'recovered':
        this.note('the connection moves again');
        this.reconnector.recovered();
        break;
      case 'rtt':
        this.rtt = output.rtt;
        break;
      case 'link_failed':
        this.linkFailed(output);
        break;
      case 'forestalled':
        this.note('a room has started again: what the new connection said is out of date');
        this.reconnector.forestalled(this.session.greeting.size > 0);
        break;
      case 'close_link':
        this.closeLink(output.link, output.why);
        break;
      case 'draining':
        this.reconnector.draining(output.reconnectIn);
        break;
      case 'ended':
        this.stop();
        break;
      default:
    }
    this.events.output(output);
  }

  /**
   * @param {number} link
   * @param {boolean} resumed
   */
  becameLive(link, resumed) {
    this.liveLink = link;
    this.rtt = null;
    const kind = /** @type {Transport} */ (this.transport).kind;
    this.note(`session ${resumed ? 'resumed' : 'opened'} on connection ${link} (${kind})`);
    this.reconnector.live(kind);
    if (kind === 'webtransport') this.remember(kind);
  }

  /** @param {Extract<Output, {type: 'link_failed'}>} output */
  linkFailed({ link, loss: { retryAfter, reason }, timedOut }) {
    const transport = this.links.get(link);
    if (timedOut && transport?.kind === 'webtransport') this.remember('websocket');
    this.reconnector.refused(transport, { retryAfter, reason, timedOut, others: this.session.greeting.size > 0 });
  }

  /** @param {TransportKind} kind */
  remember(kind) {
    if (this.endpoints !== null) remember(this.memory, this.endpoints.websocket, kind, Date.now());
  }

  /**
   * @param {number} link
   * @param {string} why
   */
  closeLink(link, why) {
    const transport = this.links.get(link);
    if (transport === undefined) return;
    this.links.delete(link);
    this.note(`connection ${link} closed: ${why.replaceAll('_', ' ')}`);
    transport.close(Close.BYE, why);
  }

  /** @param {string} text */
  note(text) {
    if (!this.events.logging()) return;
    this.events.log({ direction: 'note', at: now(), lane: null, transport: null, text });
  }

  /**
   * @param {'in' | 'out'} direction
   * @param {Lane | 'ephemeral'} lane
   * @param {Transport} transport
   * @param {string} text
   */
  log(direction, lane, transport, text) {
    if (!this.events.logging()) return;
    this.events.log({ direction, at: now(), lane, transport: transport.kind, text });
  }
}

/** Milliseconds that only ever grow. */
export function now() {
  return performance.now();
}
