/**
 * WebTransport: a stream for each reliable lane, so that neither waits for the other, and
 * datagrams for what may be lost.
 */
import { abortError, HandoverError } from '../errors.js';
import { encodeFrame, FrameReader } from '../wire/frame.js';
import { encode } from '../wire/message.js';
import { Mailbox } from './transport.js';

/**
 * @typedef {import('../wire/message.js').Lane} Lane
 * @typedef {import('./transport.js').Transport} Transport
 */

/** Messages handed to a stream that it has not taken yet. */
const UNWRITTEN_MAX = { signal: 32, bulk: 2 };
/** Datagrams older than this are of no use to anybody. */
const DATAGRAM_AGE_MAX_MS = 200;
/** Of two streams with something to send the one with the greater order goes first. */
const SEND_ORDER = { signal: 1, bulk: 0 };

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Whether there is WebTransport here: in a browser, on a page with a secure origin. */
export function hasWebTransport() {
  return typeof globalThis.WebTransport === 'function';
}

/**
 * @param {string} url
 * @param {{signal?: AbortSignal, certificateHash?: ArrayBuffer}} [options]
 * @returns {Promise<Transport>}
 */
export async function openWebTransport(url, { signal, certificateHash } = {}) {
  if (signal?.aborted) throw abortError(signal);
  if (!hasWebTransport()) {
    throw new HandoverError('unsupported', 'no WebTransport in this browser, or not on this page');
  }
  /** @type {WebTransportOptions} */
  const options = {};
  if (certificateHash !== undefined) {
    options.serverCertificateHashes = [{ algorithm: 'sha-256', value: certificateHash }];
  }
  const session = new WebTransport(url, options);
  const abort = () => session.close();
  signal?.addEventListener('abort', abort, { once: true });
  // Also rejected where `ready` is, and that one is waited for.
  session.closed.catch(() => {});
  try {
    await session.ready;
    const [signalStream, bulkStream] = await Promise.all([
      openStream(session, SEND_ORDER.signal),
      openStream(session, SEND_ORDER.bulk),
    ]);
    if (signal?.aborted) throw abortError(signal);
    return new WebTransportTransport(session, signalStream, bulkStream);
  } catch (cause) {
    session.close();
    if (signal?.aborted) throw abortError(signal);
    throw new HandoverError('unreachable', `no WebTransport at ${url}`, { cause });
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

/**
 * @param {WebTransport} session
 * @param {number} sendOrder
 */
function openStream(session, sendOrder) {
  /** @type {object} not known to every browser, and ignored where it is not */
  const options = { sendOrder };
  return session.createBidirectionalStream(options);
}

/** One lane's stream. */
class LaneStream {
  /**
   * @param {Lane} lane
   * @param {WebTransportBidirectionalStream} stream
   * @param {Mailbox} mailbox
   * @param {(reason: string) => void} failed
   */
  constructor(lane, stream, mailbox, failed) {
    this.lane = lane;
    this.mailbox = mailbox;
    this.failed = failed;
    this.writer = stream.writable.getWriter();
    this.writer.closed.catch(() => {});
    this.unwritten = 0;
    void this.read(stream.readable.getReader());
  }

  get writable() {
    return this.unwritten < UNWRITTEN_MAX[this.lane];
  }

  /** @param {string} text */
  write(text) {
    this.unwritten += 1;
    this.writer.write(encodeFrame(text)).then(
      () => {
        const was = this.writable;
        this.unwritten -= 1;
        if (!was) this.mailbox.writable();
      },
      (error) => this.failed(`the ${this.lane} stream cannot be written: ${error}`),
    );
  }

  /** @param {ReadableStreamDefaultReader<Uint8Array>} reader */
  async read(reader) {
    const frames = new FrameReader();
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        frames.push(value);
        for (let text = frames.next(); text !== null; text = frames.next()) {
          this.mailbox.message(this.lane, text);
        }
      }
      this.failed(`the ${this.lane} stream ended`);
    } catch (error) {
      this.failed(`the ${this.lane} stream broke: ${error}`);
    }
  }
}

/** @implements {Transport} */
class WebTransportTransport {
  /**
   * @param {WebTransport} session
   * @param {WebTransportBidirectionalStream} signalStream
   * @param {WebTransportBidirectionalStream} bulkStream
   */
  constructor(session, signalStream, bulkStream) {
    /** @type {'webtransport'} */
    this.kind = 'webtransport';
    this.session = session;
    this.mailbox = new Mailbox();
    const failed = (/** @type {string} */ reason) => {
      this.mailbox.closed({ reason });
      this.session.close();
    };
    this.lanes = {
      signal: new LaneStream('signal', signalStream, this.mailbox, failed),
      bulk: new LaneStream('bulk', bulkStream, this.mailbox, failed),
    };
    this.lanes.bulk.write(encode({ type: 'lane', lane: 'bulk' }));
    this.datagrams = datagramWriter(session);
    this.undelivered = false;
    void this.readDatagrams();
    session.closed.then(
      (info) => this.mailbox.closed({ code: info.closeCode || undefined, reason: info.reason }),
      (error) => this.mailbox.closed({ reason: String(error?.message ?? error) }),
    );
  }

  /** @param {import('./transport.js').TransportEvents} events */
  listen(events) {
    this.mailbox.listen(events);
  }

  /** @param {Lane} lane */
  writable(lane) {
    return this.lanes[lane].writable;
  }

  /**
   * @param {Lane} lane
   * @param {string} text
   */
  send(lane, text) {
    this.lanes[lane].write(text);
  }

  /** @param {string} text */
  sendEphemeral(text) {
    if (this.mailbox.loss !== null) return false;
    if (this.datagrams === null) {
      if (!this.lanes.signal.writable) return false;
      this.lanes.signal.write(text);
      return true;
    }
    const payload = encoder.encode(text);
    // A datagram still waiting means that the path is full: what is newer would be late too.
    if (this.undelivered || payload.length > this.session.datagrams.maxDatagramSize) return false;
    this.undelivered = true;
    const taken = () => {
      this.undelivered = false;
    };
    this.datagrams.write(payload).then(taken, taken);
    return true;
  }

  async readDatagrams() {
    if (!this.session.datagrams) return;
    const reader = this.session.datagrams.readable.getReader();
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        const text = decodeDatagram(value);
        if (text !== null) this.mailbox.message('ephemeral', text);
      }
    } catch {
      // Datagrams end with the session, which says why by itself.
    }
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  close(code, reason) {
    this.mailbox.closed({ code, reason });
    this.session.close({ closeCode: code, reason });
  }

  abort() {
    this.mailbox.closed({ reason: 'aborted' });
    this.session.close();
  }
}

/**
 * @param {WebTransport} session
 * @returns {WritableStreamDefaultWriter<Uint8Array> | null}
 */
function datagramWriter(session) {
  /** @type {any} the draft moved from one writable stream to a function that makes them */
  const datagrams = session.datagrams;
  if (!datagrams) return null;
  if ('outgoingMaxAge' in datagrams) datagrams.outgoingMaxAge = DATAGRAM_AGE_MAX_MS;
  const writable = datagrams.createWritable?.() ?? datagrams.writable;
  const writer = writable?.getWriter() ?? null;
  writer?.closed.catch(() => {});
  return writer;
}

/**
 * @param {Uint8Array} payload
 * @returns {string | null}
 */
function decodeDatagram(payload) {
  try {
    return decoder.decode(payload);
  } catch {
    return null;
  }
}
