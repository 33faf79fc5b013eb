/** What a dial waits for before there is anything to dial. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { Carrier } from '../src/carrier.js';
import { DIAL_TIMEOUT_MS } from '../src/dial.js';
import { ClientSession } from '../src/session.js';

beforeEach(() => mock.timers.enable({ apis: ['setTimeout'] }));
afterEach(() => mock.timers.reset());

/** @param {() => string | Promise<string>} token */
function carrier(token) {
  const session = new ClientSession();
  const events = { output: () => {}, log: () => {}, logging: () => false, dialFailed: () => {} };
  // Nothing answers there; the tests end before it is asked.
  return { session, it: new Carrier(session, 'https://127.0.0.1:1', { token, storage: null }, events) };
}

/**
 * What a promise has come to by now.
 * @param {Promise<unknown>} promise
 */
async function stateOf(promise) {
  let state = 'pending';
  promise.then(() => (state = 'fulfilled'), (error) => (state = error.code));
  for (let round = 0; round < 20; round += 1) await null;
  return state;
}

test('a token that does not come ends the dial in time', async () => {
  const { it } = carrier(() => new Promise(() => {}));
  const dialling = it.dial('auto', new AbortController().signal);
  mock.timers.tick(DIAL_TIMEOUT_MS - 1);
  assert.equal(await stateOf(dialling), 'pending');
  mock.timers.tick(1);
  assert.equal(await stateOf(dialling), 'unreachable');
});

test('a dial that is given up waits for no token, and one that comes later is not used', async () => {
  /** @type {(token: string) => void} */
  let bring = () => {};
  const { it, session } = carrier(() => new Promise((resolve) => (bring = resolve)));
  const abort = new AbortController();
  const dialling = it.dial('auto', abort.signal);
  assert.equal(await stateOf(dialling), 'pending');
  abort.abort();
  assert.equal(await stateOf(dialling), 'aborted');
  bring('late');
  await stateOf(dialling);
  assert.equal(session.token, undefined);
  assert.equal(await stateOf(it.dial('auto', abort.signal)), 'aborted');
});

test('a token that comes is used; a function that fails says why', async () => {
  const abort = new AbortController();
  const { it, session } = carrier(async () => 'fresh');
  const dialling = it.dial('webtransport', abort.signal);
  // Node has no WebTransport.
  assert.equal(await stateOf(dialling), 'unsupported');
  assert.equal(session.token, 'fresh');
  const failing = carrier(() => Promise.reject(new TypeError('no network')));
  await assert.rejects(failing.it.dial('auto', abort.signal), TypeError);
});
