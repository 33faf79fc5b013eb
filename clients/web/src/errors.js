/**
 * Every way in which something asked of the client can fail, and what the codes of the
 * gateway mean for what happens next.
 */

/**
 * Codes that come from the gateway.
 * @typedef {'bad_request' | 'unsupported_version' | 'unauthorized' | 'forbidden'
 *   | 'session_unknown' | 'not_a_member' | 'no_such_peer' | 'room_full' | 'too_many_rooms'
 *   | 'too_large' | 'rate_limited' | 'seq_gap' | 'unavailable' | 'internal'} GatewayErrorCode
 */

/**
 * Codes that the client makes itself.
 *
 * - `aborted`: an `AbortSignal` said so.
 * - `closed`: the session is over; `closeCode` says why if the gateway ended it.
 * - `interrupted`: it was about one connection, and that connection is gone.
 * - `uncertain`: lost with the session; it may or may not have been delivered.
 * - `not_sent`: the session or the membership ended before it went out.
 * - `outbox_full`: too much is waiting to be accepted.
 * - `lagged`: an iterator was not read for so long that messages had to be dropped.
 * - `unsupported`: this platform cannot do it.
 * - `unreachable`: no transport reached the gateway.
 * @typedef {'aborted' | 'closed' | 'interrupted' | 'uncertain' | 'not_sent' | 'outbox_full'
 *   | 'lagged' | 'unsupported' | 'unreachable'} ClientErrorCode
 */

/** What goes wrong in this library comes as one of these. */
export class HandoverError extends Error {
  /**
   * @param {GatewayErrorCode | ClientErrorCode | (string & {})} code for programs
   * @param {string} [message] for people
   * @param {{retryAfter?: number, closeCode?: number, cause?: unknown}} [detail]
   */
  constructor(code, message, detail = {}) {
    super(message ?? code, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.name = 'HandoverError';
    /** For programs. */
    this.code = code;
    /** Milliseconds after which it may work, where the gateway said so. */
    this.retryAfter = detail.retryAfter;
    /** The close code, where a close was the cause. */
    this.closeCode = detail.closeCode;
  }
}

const LATER = new Set(['rate_limited', 'unavailable', 'internal']);

/**
 * What an error means for what was refused: gone for good, to be tried again later, or to be
 * sent again from the number the gateway expects.
 * @param {string} code
 * @returns {'never' | 'later' | 'from_expected'}
 */
export function retryOf(code) {
  if (code === 'seq_gap') return 'from_expected';
  return LATER.has(code) ? 'later' : 'never';
}

/** Close codes that the client's own behaviour depends on. */
export const Close = Object.freeze({
  DRAINING: 4000,
  TOKEN_EXPIRED: 4005,
  BYE: 4500,
  HELLO_TIMEOUT: 4503,
  REPLACED: 4504,
});

/**
 * Whether a client comes back by itself after this close code. Codes outside the protocol's
 * range belong to a broken transport, after which it does.
 * @param {number | undefined} code
 */
export function mayReturn(code) {
  return code === undefined || code < 4500 || code > 4999;
}

/**
 * @param {AbortSignal | undefined} signal
 * @returns {HandoverError}
 */
export function abortError(signal) {
  return new HandoverError('aborted', 'aborted', { cause: signal?.reason });
}
