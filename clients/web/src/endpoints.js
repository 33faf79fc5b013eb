/** Where a gateway is to be reached, worked out from the one address the user gives. */
import { HandoverError } from './errors.js';

/** The gateway's port, where nothing says otherwise. */
const PORT_DEFAULT = '4433';
const IDENTITY_TIMEOUT_MS = 3_000;

/**
 * @typedef {object} EndpointOptions
 * @property {string | ArrayBuffer} [certificateHash] SHA-256 of the certificate, as base64 or
 *   bytes; for a self-made one
 * @property {string} [webTransportUrl] where it is not at the same host and port
 * @property {AbortSignal} [signal]
 * @property {boolean} [webTransport] false where it will not be used
 * @property {import('./dial.js').Endpoints | null} [known] as found before
 * @property {typeof fetch} [fetch]
 */

/**
 * An `https:` address serves both transports. A plain `http:` one is the gateway's listener
 * for development or one behind a proxy: it serves WebSockets, and tells where its QUIC port
 * is and which certificate is to be expected there.
 * @param {string | URL} address
 * @param {EndpointOptions} [options]
 * @returns {Promise<import('./dial.js').Endpoints>}
 */
export async function findEndpoints(address, options = {}) {
  const url = parse(address);
  const secure = url.protocol === 'https:' || url.protocol === 'wss:';
  const websocket = `${secure ? 'wss' : 'ws'}://${url.host}/v1/ws`;
  let certificateHash = bytesOf(options.certificateHash);
  let webtransport = options.webTransportUrl ?? (secure ? `https://${url.host}/v1/wt` : null);
  if (options.webTransport === false) return { websocket, webtransport: null };
  if (!secure && (webtransport === null || certificateHash === undefined)) {
    const identity = await fetchIdentity(`http://${url.host}/v1/identity`, options);
    // What was true before is the better guess while nobody answers.
    if (identity === undefined) return { websocket, webtransport, certificateHash, ...options.known, isGuess: true };
    if (identity !== null) {
      certificateHash ??= bytesOf(identity.value);
      webtransport ??= `https://${url.hostname}:${identity.port ?? PORT_DEFAULT}/v1/wt`;
    }
  }
  return { websocket, webtransport, certificateHash };
}

/** @param {string | URL} address */
function parse(address) {
  const url = URL.canParse(address) ? new URL(address) : null;
  if (url === null || !['http:', 'https:', 'ws:', 'wss:'].includes(url.protocol)) {
    throw new HandoverError('bad_request', `not a gateway's address: ${address}`);
  }
  return url;
}

/**
 * @param {string} address
 * @param {EndpointOptions} options
 * @returns {Promise<{value: string, port?: number} | null | undefined>} null where it has no
 *   self-made certificate, undefined where it cannot be asked
 */
async function fetchIdentity(address, { signal, fetch = globalThis.fetch }) {
  const timeout = AbortSignal.timeout(IDENTITY_TIMEOUT_MS);
  try {
    const response = await fetch(address, { signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
    if (!response.ok) return null;
    const identity = await response.json();
    return identity?.algorithm === 'sha-256' && typeof identity.value === 'string' ? identity : null;
  } catch {
    // The dial that follows finds out whether the gateway is there at all.
    return undefined;
  }
}

/**
 * @param {string | ArrayBuffer | undefined} hash
 * @returns {ArrayBuffer | undefined}
 */
function bytesOf(hash) {
  if (typeof hash !== 'string') return hash;
  return Uint8Array.from(atob(hash), (character) => character.charCodeAt(0)).buffer;
}
