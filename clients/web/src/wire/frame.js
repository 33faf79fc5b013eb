/**
 * Frames of a WebTransport stream: a QUIC variable-length integer (RFC 9000, section 16) with
 * the payload's length, then the payload.
 */

/** What the gateway may send in one frame before the client takes it for a fault. */
export const FRAME_BYTES_MAX = 32 << 20;

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * One frame around a message.
 * @param {string} text
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function encodeFrame(text) {
  const payload = encoder.encode(text);
  const head = varint(payload.length);
  const frame = new Uint8Array(head.length + payload.length);
  frame.set(head);
  frame.set(payload, head.length);
  return frame;
}

/**
 * The shortest form of an integer below 2^53.
 * @param {number} value
 * @returns {number[]}
 */
export function varint(value) {
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError('not a frame length');
  if (value < 0x40) return [value];
  if (value < 0x4000) return [0x40 | (value >> 8), value & 0xff];
  if (value < 0x40000000) {
    return [0x80 | (value >>> 24), (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff];
  }
  const bytes = new Array(8).fill(0);
  for (let index = 7, rest = value; index >= 0; index -= 1) {
    bytes[index] = rest % 256;
    rest = Math.floor(rest / 256);
  }
  bytes[0] |= 0xc0;
  return bytes;
}

/** Cuts a byte stream back into messages, however it was split on its way. */
export class FrameReader {
  constructor() {
    /** @type {Uint8Array[]} */
    this.chunks = [];
    this.buffered = 0;
    /** @type {number | null} The payload length of the frame at the front, once known. */
    this.wanted = null;
  }

  /** @param {Uint8Array} chunk */
  push(chunk) {
    if (chunk.length === 0) return;
    this.chunks.push(chunk);
    this.buffered += chunk.length;
  }

  /**
   * The next whole message.
   * @returns {string | null} null while there is none
   * @throws {RangeError | TypeError} if the stream cannot be what it should be
   */
  next() {
    if (this.wanted === null) {
      const first = this.peek();
      if (first === null) return null;
      const size = 1 << (first >> 6);
      if (this.buffered < size) return null;
      let value = 0;
      for (const [index, byte] of this.take(size).entries()) {
        value = value * 256 + (index === 0 ? byte & 0x3f : byte);
      }
      if (value > FRAME_BYTES_MAX) throw new RangeError(`a frame of ${value} bytes`);
      this.wanted = value;
    }
    if (this.buffered < this.wanted) return null;
    const payload = this.take(this.wanted);
    this.wanted = null;
    return decoder.decode(payload);
  }

  peek() {
    return this.chunks[0]?.[0] ?? null;
  }

  /**
   * @param {number} size at most what is buffered
   * @returns {Uint8Array}
   */
  take(size) {
    this.buffered -= size;
    const first = this.chunks[0];
    if (first !== undefined && first.length > size) {
      this.chunks[0] = first.subarray(size);
      return first.subarray(0, size);
    }
    const bytes = new Uint8Array(size);
    let filled = 0;
    while (filled < size) {
      const chunk = /** @type {Uint8Array} */ (this.chunks.shift());
      const part = chunk.subarray(0, size - filled);
      bytes.set(part, filled);
      filled += part.length;
      if (part.length < chunk.length) this.chunks.unshift(chunk.subarray(part.length));
    }
    return bytes;
  }
}
