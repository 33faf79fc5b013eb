/** What an application holds, against a model gateway whose answers can be held up. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { afterEach, mock, test } from 'node:test';
import { DIAL_TIMEOUT_MS } from '../src/dial.js';
import { connect } from '../src/index.js';
import { Network } from './model/network.js';

/** @type {import('../src/index.js').Client[]} */
const clients = [];

afterEach(async () => {
  mock.timers.reset();
  await Promise.all(clients.splice(0).map((client) => client.close()));
});

/**
 * @param {Network} network
 * @param {import('../src/index.js').ConnectOptions} [options]
 */
async function connected(network, options) {
  const client = await connect('https://model.test', { WebSocket: network.WebSocket, storage: null, ...options });
  clients.push(client);
  return client;
}

/** Lets everything happen that waits for no timer. */
async function turn() {
  for (let round = 0; round < 100; round += 1) await null;
}

/**
 * What a promise has come to by now.
 * @param {Promise<unknown>} promise
 */
async function stateOf(promise) {
  let state = 'pending';
  promise.then(() => (state = 'fulfilled'), (error) => (state = error.code));
  await turn();
  return state;
}

/** A token function whose answers the test gives, one call after the other. */
function issuer() {
  /** @type {((token: string) => void)[]} */
  const asked = [];
  return { asked, token: () => new Promise((/** @type {(token: string) => void} */ resolve) => asked.push(resolve)) };
}

const tokensOf = (/** @type {Network} */ network, /** @type {string} */ type) => network.saidOf(type).map(({ token }) => token);

test('a refreshed token is shown from then on, one that is refused is not', async () => {
  const network = new Network();
  const client = await connected(network, { token: 'first' });
  const reconnect = async () => {
    const back = once(client, 'transport');
    client.debugDrop();
    await back;
  };
  await client.refresh('second');
  await reconnect();
  network.meet = ({ type }) => (type === 'refresh' ? { type: 'error', code: 'forbidden', message: '' } : 'pass');
  await assert.rejects(client.refresh('of another user'), { code: 'forbidden' });
  await reconnect();
  assert.deepEqual(tokensOf(network, 'hello'), ['first', 'second', 'second']);
});

/** Connected under a token of an issuer whose further answers the test gives. */
async function withIssuer() {
  mock.timers.enable({ apis: ['setTimeout'] });
  const network = new Network();
  const { asked, token } = issuer();
  const connecting = connected(network, { token });
  asked[0]?.('first');
  return { network, asked, client: await connecting };
}

test('of several askings for a token the latest counts', async () => {
  const { network, asked } = await withIssuer();
  network.say({ type: 'expiring', in: 60_000 });
  network.say({ type: 'expiring', in: 50_000 });
  assert.equal(asked.length, 3);
  asked[2]?.('newest');
  await turn();
  asked[1]?.('stale');
  await turn();
  assert.deepEqual(tokensOf(network, 'refresh'), ['newest']);
});

test('a token that comes after a newer connection has brought its own is not used', async () => {
  const { network, asked, client } = await withIssuer();
  network.say({ type: 'expiring', in: 60_000 });
  const back = once(client, 'transport');
  client.debugDrop();
  await turn();
  asked[2]?.('fresh');
  await back;
  asked[1]?.('stale');
  await turn();
  assert.deepEqual([tokensOf(network, 'hello'), tokensOf(network, 'refresh')], [['first', 'fresh'], []]);
});

test('whoever does not answer when asked for a token is asked again', async () => {
  const { network, asked } = await withIssuer();
  network.say({ type: 'expiring', in: 60_000 });
  mock.timers.tick(DIAL_TIMEOUT_MS);
  await turn();
  mock.timers.tick(30_000);
  await turn();
  assert.equal(asked.length, 3);
  asked[2]?.('newer');
  await turn();
  assert.deepEqual(tokensOf(network, 'refresh'), ['newer']);
});

test('a log function that throws loses nothing', async () => {
  /** @type {Set<string>} */
  const thrown = new Set();
  process.setUncaughtExceptionCaptureCallback((error) => thrown.add(error.message));
  try {
    const network = new Network();
    const client = await connected(network, {
      log: () => {
        throw new Error('the disk is full');
      },
    });
    client.listen('log', () => {
      throw new Error('so is this one');
    });
    const room = await client.join('r');
    await room.send('hello');
    await client.close();
    assert.deepEqual(network.said.map(({ type }) => type).filter((type) => type !== 'ping'), ['hello', 'join', 'send', 'bye']);
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual([...thrown], ['the disk is full', 'so is this one'], 'and is told like what any listener throws');
  } finally {
    process.setUncaughtExceptionCaptureCallback(null);
  }
});

test('each caller of a join gives up for itself', async () => {
  const network = new Network();
  const client = await connected(network);
  network.meet = ({ type }) => (type === 'join' ? 'hold' : 'pass');
  const aborts = [new AbortController(), new AbortController()];
  const [first, second] = aborts.map(({ signal }) => client.join('r', { signal }));
  const third = client.join('r');
  aborts[0]?.abort();
  aborts[1]?.abort();
  assert.deepEqual([await stateOf(first ?? third), await stateOf(second ?? third), await stateOf(third)], ['aborted', 'aborted', 'pending']);
  network.release();
  const room = await third;
  assert.deepEqual([room.isClosed, client.rooms.get('r'), network.saidOf('leave')], [false, room, []]);
  assert.equal(await client.join('r', { signal: new AbortController().signal }), room);
});

test('a room that nobody waits for any more is left, and can be joined again', async () => {
  const network = new Network();
  const client = await connected(network);
  network.meet = ({ type }) => (type === 'join' || type === 'leave' ? 'hold' : 'pass');
  const abort = new AbortController();
  const [one, two] = [client.join('r', { signal: abort.signal }), client.join('r', { signal: abort.signal })];
  abort.abort();
  assert.deepEqual([await stateOf(one), await stateOf(two)], ['aborted', 'aborted']);
  assert.equal(network.saidOf('leave').length, 1);
  const again = client.join('r');
  network.release();
  const room = await again;
  assert.deepEqual([room.isClosed, network.gateway.room('r').members.size], [false, 1]);
});

test('an abort that comes while the session ends is not one more error', async () => {
  const network = new Network();
  const client = await connected(network);
  network.meet = ({ type }) => (type === 'join' || type === 'bye' ? 'hold' : 'pass');
  const abort = new AbortController();
  const joining = client.join('r', { signal: abort.signal });
  const closing = client.close();
  await turn();
  abort.abort();
  await assert.rejects(joining, { code: 'aborted' });
  // What a listener throws comes out later.
  await new Promise((resolve) => setImmediate(resolve));
  network.release();
  await closing;
});

test('who joins a room while leaving it has left it first', async () => {
  const network = new Network();
  const client = await connected(network);
  const before = await client.join('r');
  network.meet = ({ type }) => (type === 'leave' ? 'hold' : 'pass');
  const leaving = [before.leave(), before.leave()];
  const joining = client.join('r');
  const abort = new AbortController();
  const impatient = client.join('r', { signal: abort.signal });
  abort.abort();
  assert.deepEqual([await stateOf(joining), await stateOf(impatient)], ['pending', 'aborted']);
  network.release();
  await Promise.all(leaving);
  const room = await joining;
  assert.notEqual(room, before);
  assert.deepEqual([before.isClosed, room.isClosed, client.rooms.get('r')], [true, false, room]);
});

test('a transport that is not to be had, or not wanted any more, is an error; afterwards it is not tried', async () => {
  const network = new Network();
  const client = await connected(network);
  /** @type {string[]} */
  const dials = [];
  client.listen('log', ({ text }) => {
    if (text.startsWith('dialling')) dials.push(text);
  });
  const first = client.switchTransport('webtransport');
  const second = client.switchTransport('webtransport');
  await assert.rejects(first, { code: 'aborted' });
  await assert.rejects(second, { code: 'unsupported' });
  const back = once(client, 'transport');
  client.debugDrop();
  await back;
  const third = client.switchTransport('webtransport');
  await client.switchTransport('websocket');
  await assert.rejects(third, { code: 'aborted' });
  await turn();
  assert.deepEqual(dials.map((text) => text.slice(10, -1)), ['webtransport', 'webtransport', 'auto', 'webtransport']);
  assert.equal(client.state, 'connected');
  const fourth = client.switchTransport('webtransport');
  const closing = client.close();
  await assert.rejects(fourth, { code: /unsupported|closed/ });
  await assert.rejects(client.switchTransport('websocket'), { code: 'closed' });
  await closing;
  await assert.rejects(client.switchTransport('auto'), { code: 'closed' });
});

test('a connection that a reset has made pointless is dialled again', async () => {
  const network = new Network();
  const client = await connected(network);
  await client.join('r');
  network.meet = ({ type }) => (type === 'hello' ? 'hold' : 'pass');
  network.say({ type: 'draining', reconnect_in: 0 });
  await turn();
  const back = once(client, 'transport');
  const members = [...network.gateway.room('r').members.values()];
  network.say({ type: 'reset', reason: 'epoch', room: 'r', epoch: 'later', signal: 7, bulk: 3, seq: { signal: 0, bulk: 0 }, members });
  await turn();
  network.release();
  await back;
  const listed = network.saidOf('hello').map(({ resume }) => resume?.rooms.r.epoch);
  assert.deepEqual([listed[0], listed.at(-1), listed.length], [undefined, 'later', 3]);
});

test('a greeting that a later one replaces is nothing to dial for', async () => {
  const network = new Network();
  const client = await connected(network);
  network.meet = ({ type }) => (type === 'hello' ? 'hold' : 'pass');
  network.say({ type: 'draining', reconnect_in: 0 });
  await turn();
  network.say({ type: 'draining', reconnect_in: 0 });
  await turn();
  const [live, replaced, later] = network.sockets;
  assert.ok(live && replaced && later);
  network.gateway.say(replaced.link, { type: 'close', code: 4504, reason: 'replaced' });
  network.flush();
  await turn();
  const back = once(client, 'transport');
  network.release();
  await back;
  assert.equal(network.saidOf('hello').length, 3);
  assert.equal(later.link.session?.link, later.link);
});

test('who closes without a connection gets one to say goodbye, and tells of nothing but the end', async () => {
  mock.timers.enable({ apis: ['setTimeout'] });
  const network = new Network();
  const client = await connected(network);
  await client.join('r');
  network.isUp = false;
  client.debugDrop();
  await turn();
  assert.equal(client.state, 'reconnecting');
  // The next dial would be after a pause.
  network.isUp = true;
  /** @type {string[]} */
  const states = [];
  client.listen('state', ({ state }) => states.push(state));
  await client.close();
  assert.deepEqual([network.said.at(-1).type, network.gateway.sessions.size, states], ['bye', 0, ['closed']]);
});

test('a goodbye that cannot be said in time is not waited for', async () => {
  mock.timers.enable({ apis: ['setTimeout'] });
  const network = new Network();
  const client = await connected(network);
  network.isUp = false;
  client.debugDrop();
  await turn();
  const closing = client.close();
  assert.equal(await stateOf(closing), 'pending');
  mock.timers.tick(1_000);
  assert.equal(await stateOf(closing), 'fulfilled');
  assert.equal(client.state, 'closed');
});
