/**
 * Events as an async iterable with a bounded buffer. If nobody reads for so long that it
 * fills up, the iteration ends with an error instead of leaving something out silently.
 */
import { HandoverError } from './errors.js';

/**
 * @template T
 * @implements {AsyncIterableIterator<T>}
 */
export class EventStream {
  /**
   * @param {number} capacity
   * @param {() => void} ended called once, when nothing more is wanted
   */
  constructor(capacity, ended) {
    this.capacity = capacity;
    this.ended = ended;
    /** @type {T[]} */
    this.buffer = [];
    /** @type {{resolve: (result: IteratorResult<T>) => void, reject: (error: unknown) => void}[]} */
    this.readers = [];
    this.done = false;
    /** @type {HandoverError | null} */
    this.error = null;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** @param {T} value */
  push(value) {
    if (this.done) return;
    const reader = this.readers.shift();
    if (reader !== undefined) return reader.resolve({ value, done: false });
    if (this.buffer.length < this.capacity) {
      this.buffer.push(value);
      return;
    }
    this.finish(new HandoverError('lagged', `not read for ${this.capacity} events`));
  }

  /**
   * Nothing more comes; what is buffered can still be read.
   * @param {HandoverError | null} [error]
   */
  finish(error = null) {
    if (this.done) return;
    this.done = true;
    this.error = error;
    this.ended();
    for (const reader of this.readers.splice(0)) {
      if (error !== null) reader.reject(error);
      else reader.resolve({ value: undefined, done: true });
    }
  }

  /** @returns {Promise<IteratorResult<T>>} */
  next() {
    if (this.buffer.length > 0) {
      const value = /** @type {T} */ (this.buffer.shift());
      return Promise.resolve({ value, done: false });
    }
    if (!this.done) return new Promise((resolve, reject) => this.readers.push({ resolve, reject }));
    const { error } = this;
    this.error = null;
    return error === null ? Promise.resolve({ value: undefined, done: true }) : Promise.reject(error);
  }

  /** @returns {Promise<IteratorResult<T>>} */
  return() {
    this.buffer = [];
    this.finish();
    return Promise.resolve({ value: undefined, done: true });
  }
}
