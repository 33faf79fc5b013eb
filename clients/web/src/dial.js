/**
 * From an address to an open connection: WebTransport first, a WebSocket racing after it, and
 * whichever opens first wins. The other is cancelled.
 */
import { abortError, HandoverError } from './errors.js';
import { hasWebTransport, openWebTransport } from './transport/webtransport.js';
import { openWebSocket } from './transport/websocket.js';

/**
 * @typedef {import('./transport/transport.js').Transport} Transport
 * @typedef {import('./transport/transport.js').TransportKind} TransportKind
 */

/** How long WebTransport may try before a WebSocket races it. */
export const HEAD_START_MS = 300;
/** How long any of them may take. */
export const DIAL_TIMEOUT_MS = 8_000;
/** How long it is remembered that a WebSocket had to do. */
export const REMEMBER_MS = 10 * 60_000;

/**
 * Where the gateway is, by transport.
 * @typedef {object} Endpoints
 * @property {string} websocket
 * @property {string | null} webtransport null where it cannot be reached that way
 * @property {ArrayBuffer} [certificateHash]
 * @property {boolean} [isGuess] the gateway could not be asked
 */

/**
 * What a winner is remembered in; like `localStorage`.
 * @typedef {{getItem(key: string): string | null, setItem(key: string, value: string): void}} Memory
 */

/**
 * @typedef {object} DialOptions
 * @property {'auto' | TransportKind} [transport]
 * @property {AbortSignal} [signal]
 * @property {Memory | null} [memory]
 * @property {new (url: string, protocols?: string[]) => any} [WebSocket]
 * @property {Openers} [openers]
 * @property {() => number} [now] wall clock
 */

/** @typedef {{webtransport: (signal: AbortSignal) => Promise<Transport>, websocket: (signal: AbortSignal) => Promise<Transport>}} Openers */

/**
 * Opens a connection.
 * @param {Endpoints} endpoints
 * @param {DialOptions} [options]
 * @returns {Promise<Transport>}
 */
export async function dial(endpoints, options = {}) {
  const { transport = 'auto', signal, memory = null, WebSocket, now = Date.now } = options;
  const { certificateHash } = endpoints;
  const openers = options.openers ?? {
    webtransport: (signal) => openWebTransport(endpoints.webtransport ?? '', { signal, certificateHash }),
    websocket: (signal) => openWebSocket(endpoints.websocket, { signal, WebSocket }),
  };
  const able = endpoints.webtransport !== null && (options.openers !== undefined || hasWebTransport());
  if (transport === 'webtransport' && !able) {
    if (endpoints.isGuess) throw new HandoverError('unreachable', 'the gateway does not answer');
    if (hasWebTransport()) throw new HandoverError('unreachable', 'the gateway does not say where its WebTransport is');
    throw new HandoverError('unsupported', 'no WebTransport in this browser, or not on this page');
  }
  if (transport !== 'auto') return race([{ open: openers[transport], after: 0 }], signal);
  if (!able) return race([{ open: openers.websocket, after: 0 }], signal);
  const headStart = recall(memory, endpoints.websocket, now()) ? 0 : HEAD_START_MS;
  const winner = await race([
    { open: openers.webtransport, after: 0 },
    { open: openers.websocket, after: headStart },
  ], signal);
  remember(memory, endpoints.websocket, winner.kind, now());
  return winner;
}

/**
 * Starts each contestant after its delay, or as soon as all before it have failed.
 * @param {{open: (signal: AbortSignal) => Promise<Transport>, after: number}[]} contestants
 * @param {AbortSignal | undefined} signal
 * @returns {Promise<Transport>}
 */
function race(contestants, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(abortError(signal));
    /** @type {(AbortController | null)[]} */
    const controllers = contestants.map(() => null);
    /** @type {ReturnType<typeof setTimeout>[]} */
    const timers = [];
    /** @type {unknown[]} */
    const failures = [];
    let over = false;

    /** @param {AbortController | null} winner */
    const finish = (winner) => {
      over = true;
      for (const timer of timers) clearTimeout(timer);
      signal?.removeEventListener('abort', aborted);
      for (const controller of controllers) if (controller !== winner) controller?.abort();
    };
    const aborted = () => {
      finish(null);
      reject(abortError(signal));
    };
    /** @param {number} index */
    const start = (index) => {
      const contestant = contestants[index];
      if (over || contestant === undefined || controllers[index]) return;
      const controller = new AbortController();
      controllers[index] = controller;
      contestant.open(controller.signal).then(
        (transport) => {
          // It may have opened in the moment in which another one won.
          if (over) return transport.abort();
          finish(controller);
          resolve(transport);
        },
        (error) => {
          if (over) return;
          failures.push(error);
          if (failures.length === contestants.length) {
            finish(null);
            reject(failure(failures));
          } else start(index + 1);
        },
      );
    };
    signal?.addEventListener('abort', aborted, { once: true });
    timers.push(setTimeout(() => {
      finish(null);
      reject(new HandoverError('unreachable', 'the gateway did not answer in time'));
    }, DIAL_TIMEOUT_MS));
    for (const [index, { after }] of contestants.entries()) {
      if (after === 0) start(index);
      else timers.push(setTimeout(() => start(index), after));
    }
  });
}

/**
 * What comes of a promise, unless what it is for is given up, or it takes too long.
 * @template T
 * @param {T | Promise<T>} promise
 * @param {AbortSignal} signal
 * @param {string} late what is said then
 * @param {number} [ms]
 * @returns {Promise<T>}
 */
export function inTime(promise, signal, late, ms = DIAL_TIMEOUT_MS) {
  return new Promise((resolve, reject) => {
    /** @param {() => void} settle */
    const finish = (settle) => {
      clearTimeout(timer);
      signal.removeEventListener('abort', aborted);
      settle();
    };
    const aborted = () => finish(() => reject(abortError(signal)));
    const timer = setTimeout(() => finish(() => reject(new HandoverError('unreachable', late))), ms);
    signal.addEventListener('abort', aborted);
    Promise.resolve(promise).then((value) => finish(() => resolve(value)), (error) => finish(() => reject(error)));
    if (signal.aborted) aborted();
  });
}

/** @param {unknown[]} failures */
function failure(failures) {
  const [only] = failures;
  if (failures.length === 1 && only instanceof HandoverError) return only;
  return new HandoverError('unreachable', 'the gateway cannot be reached', { cause: failures });
}

/** @param {string} address */
const keyOf = (address) => `handover:transport:${new URL(address).host}`;

/**
 * Whether a WebSocket had to do lately.
 * @param {Memory | null} memory
 * @param {string} address
 * @param {number} now
 */
function recall(memory, address, now) {
  try {
    const since = Number(memory?.getItem(keyOf(address)) ?? 0);
    return since > 0 && now - since < REMEMBER_MS;
  } catch {
    return false;
  }
}

/**
 * @param {Memory | null} memory
 * @param {string} address
 * @param {TransportKind} kind
 * @param {number} now
 */
export function remember(memory, address, kind, now) {
  try {
    memory?.setItem(keyOf(address), kind === 'websocket' ? String(now) : '0');
  } catch {
    // A page may be denied its storage; then the next dial gives the head start again.
  }
}

/** The page's own storage, where it has one and may use it. */
export function pageMemory() {
  try {
    return globalThis.localStorage ?? null;
  } catch {
    return null;
  }
}
