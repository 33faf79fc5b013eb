/** A WebSocket: one message of ours is one message of its. */
import { abortError, HandoverError } from '../errors.js';
import { Mailbox } from './transport.js';

/**
 * @typedef {import('../wire/message.js').Lane} Lane
 * @typedef {import('./transport.js').Transport} Transport
 */

/** The codec, as the gateway knows it. */
const PROTOCOL = 'handover.v1.json';

/**
 * Bytes that may stand in the socket's own buffer before a lane takes no more. What is in
 * there cannot be overtaken: `bulk` is held back long before it could delay `signal`.
 */
const BUFFERED_MAX = { signal: 1 << 20, bulk: 16 << 10, ephemeral: 8 << 10 };
/** A WebSocket has no event for a buffer that has drained. */
const DRAIN_POLL_MS = 10;

/**
 * @param {string} url
 * @param {{signal?: AbortSignal, WebSocket?: new (url: string, protocols?: string[]) => any}} [options]
 * @returns {Promise<Transport>}
 */
export function openWebSocket(url, { signal, WebSocket = globalThis.WebSocket } = {}) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(abortError(signal));
    if (WebSocket === undefined) {
      const hint = 'this platform has no WebSocket; pass one as the option WebSocket';
      return reject(new HandoverError('unsupported', hint));
    }
    /** @type {WebSocket} */
    const socket = new WebSocket(url, [PROTOCOL]);
    const transport = new WebSocketTransport(socket);
    const abort = () => {
      transport.abort();
      reject(abortError(signal));
    };
    signal?.addEventListener('abort', abort, { once: true });
    const settled = () => signal?.removeEventListener('abort', abort);
    socket.addEventListener('open', () => {
      settled();
      resolve(transport);
    }, { once: true });
    // What went wrong is kept from scripts: `error` and `close` both come, and say nothing.
    socket.addEventListener('close', () => {
      settled();
      reject(new HandoverError('unreachable', `no WebSocket at ${url}`));
    }, { once: true });
  });
}

/** @implements {Transport} */
class WebSocketTransport {
  /** @param {WebSocket} socket */
  constructor(socket) {
    /** @type {'websocket'} */
    this.kind = 'websocket';
    this.socket = socket;
    this.mailbox = new Mailbox();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.draining = undefined;
    socket.addEventListener('message', ({ data }) => {
      // Binary on a text codec is the gateway's fault; the session says so when it reads it.
      this.mailbox.message('signal', typeof data === 'string' ? data : '');
    });
    socket.addEventListener('error', () => {});
    socket.addEventListener('close', ({ code, reason }) => this.ended({ code, reason }));
  }

  /** @param {import('./transport.js').TransportEvents} events */
  listen(events) {
    this.mailbox.listen(events);
  }

  /** @param {Lane} lane */
  writable(lane) {
    if (this.socket.bufferedAmount <= BUFFERED_MAX[lane]) return true;
    this.draining ??= setTimeout(() => {
      this.draining = undefined;
      this.mailbox.writable();
    }, DRAIN_POLL_MS);
    return false;
  }

  /**
   * @param {Lane} lane
   * @param {string} text
   */
  send(lane, text) {
    if (this.socket.readyState === 1) this.socket.send(text);
  }

  /** @param {string} text */
  sendEphemeral(text) {
    if (this.socket.readyState !== 1) return false;
    if (this.socket.bufferedAmount > BUFFERED_MAX.ephemeral) return false;
    this.socket.send(text);
    return true;
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  close(code, reason) {
    this.socket.close(code, reason);
    this.ended({ code, reason });
  }

  abort() {
    // Where the platform can drop the socket without a farewell, it does.
    if ('terminate' in this.socket && typeof this.socket.terminate === 'function') this.socket.terminate();
    else this.socket.close();
    this.ended({ reason: 'aborted' });
  }

  /** @param {import('../session/output.js').Loss} loss */
  ended(loss) {
    clearTimeout(this.draining);
    this.mailbox.closed(loss);
  }
}
