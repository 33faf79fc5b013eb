/** The client against a real gateway, over WebSocket: what Node has. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, test } from 'node:test';
import { WebSocket } from 'ws';
import { connect, HandoverError } from '../src/index.js';
import { startGateway } from './gateway-process.js';

/** @type {import('./gateway-process.js').Gateway} */
let gateway;
/** @type {import('../src/index.js').Client[]} */
const clients = [];

before(async () => {
  gateway = await startGateway();
});
after(async () => {
  await Promise.all(clients.map((client) => client.close()));
  await gateway?.stop();
});

/** @param {import('../src/index.js').ConnectOptions} [options] */
async function client(options) {
  const connected = await connect(gateway.url, { WebSocket, ...options });
  clients.push(connected);
  return connected;
}

/**
 * The payload of the next such event.
 * @param {EventTarget} target
 * @param {string} type
 * @returns {Promise<any>}
 */
async function next(target, type) {
  const [event] = await once(target, type);
  return event.detail;
}

let count = 0;

/** Two clients in a room of their own. */
async function pair() {
  count += 1;
  const [a, b] = [await client(), await client()];
  const left = await a.join(`pair ${count}`, { metadata: { name: 'a' } });
  const joined = next(left, 'member_joined');
  const right = await b.join(`pair ${count}`, { metadata: { name: 'b' } });
  await joined;
  return { a, b, left, right };
}

test('a room knows its members, what they show, and when they go', async () => {
  const { a, b, left, right } = await pair();
  assert.deepEqual(right.others.map(({ metadata }) => metadata), [{ name: 'a' }]);
  assert.equal(left.members.get(b.peer ?? '')?.metadata.name, 'b');
  assert.ok((right.self?.since ?? 0) > (left.self?.since ?? 0));
  const updated = next(left, 'member_updated');
  await right.update({ name: 'B' });
  assert.equal((await updated).member.metadata.name, 'B');
  assert.equal(right.self?.metadata.name, 'B');
  const gone = next(left, 'member_left');
  await right.leave();
  assert.equal((await gone).reason, 'left');
  assert.equal(left.members.size, 1);
  const again = next(left, 'member_joined');
  await b.join(right.name);
  await again;
  const bye = next(left, 'member_left');
  await b.close();
  assert.equal((await bye).reason, 'bye');
  assert.equal(b.state, 'closed');
  assert.equal(a.state, 'connected');
});

test('messages on both lanes arrive once and in order, and sends say where', async () => {
  const { left, right } = await pair();
  const got = right.messages();
  const sends = [];
  for (let index = 1; index <= 50; index += 1) {
    sends.push(left.send({ index }, { lane: index % 2 === 0 ? 'bulk' : 'signal' }));
  }
  const receipts = await Promise.all(sends);
  assert.ok(receipts.every(({ epoch }) => epoch === receipts[0]?.epoch));
  /** @type {Record<string, number[]>} */
  const seen = { signal: [], bulk: [] };
  for await (const { lane, body } of got) {
    seen[lane]?.push(body.index);
    if ((seen.signal?.length ?? 0) + (seen.bulk?.length ?? 0) === 50) break;
  }
  const odd = Array.from({ length: 25 }, (_, index) => index * 2 + 1);
  assert.deepEqual(seen, { signal: odd, bulk: odd.map((index) => index + 1) });
});

test('a directed message reaches its addressee alone', async () => {
  const { b, left, right } = await pair();
  const other = await client();
  const third = await other.join(left.name);
  const atRight = right.messages();
  const atThird = third.messages();
  await left.send('for b', { to: b.peer ?? '' });
  await left.send('for all');
  assert.equal((await atRight.next()).value.body, 'for b');
  assert.equal((await atThird.next()).value.body, 'for all');
});

test('ephemeral messages arrive', async () => {
  const { a, left, right } = await pair();
  const got = next(right, 'ephemeral');
  assert.ok(left.ephemeral({ x: 1 }));
  assert.deepEqual(await got, { from: a.peer, body: { x: 1 } });
});

test('a refused send rejects, and those behind it are accepted', async () => {
  const { left, right } = await pair();
  const got = right.messages();
  const results = await Promise.allSettled([
    left.send(1),
    left.send(2, { to: 'nobody' }),
    left.send(3),
    left.send(4),
  ]);
  assert.deepEqual(results.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled', 'fulfilled']);
  const refused = results[1];
  assert.ok(refused?.status === 'rejected' && refused.reason instanceof HandoverError);
  const bodies = [];
  for await (const { body } of got) if (bodies.push(body) === 3) break;
  assert.deepEqual(bodies, [1, 3, 4]);
});

test('what the gateway would not take is refused before it is sent', async () => {
  const { left } = await pair();
  await assert.rejects(left.send('x'.repeat(70_000)), { code: 'too_large' });
  await assert.rejects(left.update({ x: 'x'.repeat(5_000) }), { code: 'too_large' });
  assert.throws(() => left.ephemeral('x'.repeat(801)), { code: 'too_large' });
  await assert.rejects(left.send(undefined), TypeError);
  await left.send('x'.repeat(60_000));
});

test('a cut connection loses nothing, in either direction', async () => {
  const { a, b, left, right } = await pair();
  const total = 120;
  const got = { left: left.messages(), right: right.messages() };
  const sending = [];
  for (let index = 0; index < total; index += 1) {
    sending.push(left.send(index), right.send(index, { lane: 'bulk' }));
    if (index % 20 === 10) {
      const back = next(index % 40 === 10 ? a : b, 'transport');
      (index % 40 === 10 ? a : b).debugDrop();
      await back;
    }
  }
  await Promise.all(sending);
  for (const stream of [got.left, got.right]) {
    const bodies = [];
    for await (const { body } of stream) if (bodies.push(body) === total) break;
    assert.deepEqual(bodies, Array.from({ length: total }, (_, index) => index));
  }
  assert.equal(a.state, 'connected');
});

test('what is sent while nothing carries the session goes out afterwards', async () => {
  const { a, left, right } = await pair();
  const got = right.messages();
  const down = next(a, 'state');
  const peer = a.peer;
  a.debugDrop(300);
  assert.equal((await down).state, 'reconnecting');
  const up = next(a, 'state');
  await left.send('typed meanwhile', { lane: 'bulk' });
  const { state, resumed, gapMs } = await up;
  assert.deepEqual({ state, resumed, peer: a.peer }, { state: 'connected', resumed: true, peer });
  assert.ok(gapMs > 0);
  assert.equal((await got.next()).value.body, 'typed meanwhile');
  assert.equal(left.ephemeral('now'), true);
});

test('joining twice is one membership, and an aborted join leaves nothing behind', async () => {
  const only = await client();
  const [one, two] = await Promise.all([only.join('same'), only.join('same')]);
  assert.equal(one, two);
  assert.equal(await only.join('same'), one);
  await assert.rejects(only.join('never', { signal: AbortSignal.abort() }), { code: 'aborted' });
  const abort = new AbortController();
  const joining = only.join('given up', { signal: abort.signal });
  abort.abort();
  await assert.rejects(joining, { code: 'aborted' });
  const other = await client();
  // Once the gateway has answered something later, the leave is through.
  await only.iceServers();
  const room = await other.join('given up');
  assert.deepEqual(room.others, []);
});

test('in a call a gateway that says nothing more is noticed, and nothing is lost by it', async () => {
  const silent = await startGateway();
  const [a, b] = [await connect(silent.url, { WebSocket }), await connect(silent.url, { WebSocket })];
  const [left, right] = [await a.join('silent'), await b.join('silent')];
  a.inCall = true;
  await next(a, 'rtt');
  const down = next(a, 'state');
  silent.kill('SIGSTOP');
  assert.equal((await down).state, 'reconnecting');
  const got = right.messages();
  const sent = left.send('into the silence');
  const up = next(a, 'state');
  silent.kill('SIGCONT');
  assert.equal((await up).state, 'connected');
  await sent;
  await left.send('last');
  assert.deepEqual([(await got.next()).value.body, (await got.next()).value.body], ['into the silence', 'last']);
  await Promise.all([a.close(), b.close()]);
  await silent.stop();
});

test('round trips are measured', async () => {
  const only = await client();
  only.inCall = true;
  const { rtt } = await next(only, 'rtt');
  assert.ok(rtt >= 0 && rtt === only.rtt);
});

test('no gateway: a clear error, and no second try unless asked for', async () => {
  await assert.rejects(connect('http://127.0.0.1:1', { WebSocket }), { code: 'unreachable' });
  const signal = AbortSignal.timeout(300);
  await assert.rejects(connect('http://127.0.0.1:1', { WebSocket, retry: true, signal }), { code: 'aborted' });
  await assert.rejects(connect(gateway.url, { WebSocket, transport: 'webtransport' }), { code: 'unsupported' });
});

test('a gateway that has forgotten the session: rooms are joined anew and say so', async () => {
  const first = await startGateway();
  const lonely = await connect(first.url, { WebSocket });
  const room = await lonely.join('kept', { metadata: { name: 'x' } });
  const before = lonely.peer;
  const down = next(lonely, 'state');
  await first.stop('SIGKILL');
  assert.equal((await down).state, 'reconnecting');
  const reset = next(room, 'reset');
  const waiting = room.send('after the restart');
  const second = await startGateway({ http: new URL(first.url).host });
  const { reason, members } = await reset;
  assert.equal(reason, 'new_session');
  assert.notEqual(lonely.peer, before);
  assert.deepEqual(members.map((/** @type {any} */ { peer, metadata }) => [peer, metadata]), [[lonely.peer, { name: 'x' }]]);
  assert.equal(room.self?.peer, lonely.peer);
  await waiting;
  await lonely.close();
  await second.stop();
});
