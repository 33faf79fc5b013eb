/** The race between transports, and when there is another one. */
import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { Backoff } from '../src/backoff.js';
import { dial, HEAD_START_MS } from '../src/dial.js';
import { findEndpoints } from '../src/endpoints.js';
import { Reconnector } from '../src/reconnect.js';

/** @typedef {import('../src/transport/transport.js').Transport} Transport */
/** @typedef {import('../src/transport/transport.js').TransportKind} TransportKind */

const ENDPOINTS = { websocket: 'wss://host:4433/v1/ws', webtransport: 'https://host:4433/v1/wt' };

/** Transports that open when the test says so. */
class Track {
  constructor() {
    /** @type {string[]} */
    this.events = [];
    /** @type {Map<TransportKind, PromiseWithResolvers<Transport>>} */
    this.runs = new Map();
    /** @type {import('../src/dial.js').Openers} */
    this.openers = {
      webtransport: (signal) => this.open('webtransport', signal),
      websocket: (signal) => this.open('websocket', signal),
    };
  }

  /**
   * @param {TransportKind} kind
   * @param {AbortSignal} signal
   */
  open(kind, signal) {
    this.events.push(`${kind} starts`);
    signal.addEventListener('abort', () => this.events.push(`${kind} cancelled`));
    /** @type {any} */
    const run = {};
    run.promise = new Promise((resolve, reject) => Object.assign(run, { resolve, reject }));
    this.runs.set(kind, run);
    return run.promise;
  }

  /** @param {TransportKind} kind */
  finish(kind) {
    const transport = /** @type {any} */ ({ kind, abort: () => this.events.push(`${kind} dropped`) });
    this.runs.get(kind)?.resolve(transport);
    return transport;
  }

  /** @param {TransportKind} kind */
  fail(kind) {
    this.runs.get(kind)?.reject(new Error(`no ${kind}`));
  }
}

class Memory {
  /** @type {Map<string, string>} */
  kept = new Map();
  getItem(/** @type {string} */ key) {
    return this.kept.get(key) ?? null;
  }

  setItem(/** @type {string} */ key, /** @type {string} */ value) {
    this.kept.set(key, value);
  }
}

/** @param {() => Promise<void>} run with timers that only the test moves */
async function timed(run) {
  mock.timers.enable({ apis: ['setTimeout'] });
  try {
    await run();
  } finally {
    mock.timers.reset();
  }
}

/** Lets promises settle. */
async function turn() {
  for (let round = 0; round < 10; round += 1) await null;
}

test('WebTransport has a head start, and wins if it needs no longer', () => timed(async () => {
  const track = new Track();
  const dialing = dial(ENDPOINTS, track);
  mock.timers.tick(HEAD_START_MS - 1);
  assert.deepEqual(track.events, ['webtransport starts']);
  track.finish('webtransport');
  assert.equal((await dialing).kind, 'webtransport');
  mock.timers.tick(60_000);
  assert.deepEqual(track.events, ['webtransport starts']);
}));

test('after it a WebSocket races; the loser is cancelled, and dropped if it opens all the same', () => timed(async () => {
  const track = new Track();
  const dialing = dial(ENDPOINTS, track);
  mock.timers.tick(HEAD_START_MS);
  track.finish('websocket');
  assert.equal((await dialing).kind, 'websocket');
  track.finish('webtransport');
  await turn();
  assert.deepEqual(track.events, ['webtransport starts', 'websocket starts', 'webtransport cancelled', 'webtransport dropped']);
}));

test('a failure does not wait for the head start to end, and two are an error', () => timed(async () => {
  const track = new Track();
  const dialing = dial(ENDPOINTS, track);
  track.fail('webtransport');
  await turn();
  assert.deepEqual(track.events, ['webtransport starts', 'websocket starts']);
  track.fail('websocket');
  await assert.rejects(dialing, { code: 'unreachable' });
}));

test('that a WebSocket had to do is remembered for a while, per gateway', () => timed(async () => {
  const memory = new Memory();
  let wall = 1_000;
  const options = () => ({ ...new Track(), memory, now: () => wall });
  const first = new Track();
  const dialing = dial(ENDPOINTS, { ...options(), openers: first.openers });
  mock.timers.tick(HEAD_START_MS);
  first.finish('websocket');
  await dialing;
  const again = new Track();
  const second = dial(ENDPOINTS, { ...options(), openers: again.openers });
  assert.deepEqual(again.events, ['webtransport starts', 'websocket starts']);
  again.finish('websocket');
  await second;
  wall += 3_600_000;
  const late = new Track();
  const third = dial(ENDPOINTS, { ...options(), openers: late.openers });
  assert.deepEqual(late.events, ['webtransport starts']);
  late.finish('webtransport');
  await third;
  const hostile = { getItem: () => assert.fail(), setItem: () => assert.fail() };
  const denied = new Track();
  const fourth = dial(ENDPOINTS, { openers: denied.openers, memory: hostile });
  denied.finish('webtransport');
  assert.equal((await fourth).kind, 'webtransport');
}));

test('an abort cancels everything', () => timed(async () => {
  const track = new Track();
  const abort = new AbortController();
  const dialing = dial(ENDPOINTS, { ...track, openers: track.openers, signal: abort.signal });
  mock.timers.tick(HEAD_START_MS);
  abort.abort();
  await assert.rejects(dialing, { code: 'aborted' });
  assert.deepEqual(track.events.slice(2), ['webtransport cancelled', 'websocket cancelled']);
  await assert.rejects(dial(ENDPOINTS, { openers: track.openers, signal: abort.signal }), { code: 'aborted' });
}));

test('a chosen transport is the only one tried; none that answers is an error in time', () => timed(async () => {
  const track = new Track();
  const dialing = dial(ENDPOINTS, { openers: track.openers, transport: 'websocket' });
  mock.timers.tick(60_000);
  await assert.rejects(dialing, { code: 'unreachable' });
  assert.deepEqual(track.events, ['websocket starts', 'websocket cancelled']);
  await assert.rejects(dial({ ...ENDPOINTS, webtransport: null }, { transport: 'webtransport' }), { code: 'unsupported' });
}));

test('waits double under full jitter, the first retry is at once, and the gateway is obeyed', () => {
  const backoff = new Backoff({ random: () => 1 });
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6, 7].map(() => backoff.next()), [0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
  backoff.reset();
  assert.equal(backoff.next(2_500), 3_500);
  assert.equal(new Backoff({ random: () => 0 }).next(2_500), 2_500);
});

test('who is put off does not stay away ever longer', () => {
  const backoff = new Backoff({ random: () => 1 });
  for (let failures = 0; failures < 6; failures += 1) backoff.next();
  assert.deepEqual([0, 1, 2].map(() => backoff.next(500)), [4_500, 4_500, 4_500]);
  assert.equal(backoff.next(), 8_000);
});

/** A reconnector and what it does. */
function reconnector(/** @type {'auto' | TransportKind} */ choice = 'auto') {
  const track = new Track();
  /** @type {[string, number | null][]} */
  const failed = [];
  /** @type {string[]} */
  const dials = [];
  let now = 0;
  const it = new Reconnector({
    dial: (choice, signal) => {
      dials.push(choice);
      return track.open(choice === 'auto' ? 'webtransport' : choice, signal);
    },
    opened: () => {},
    failed: (error, wait) => failed.push([error.code, wait]),
    canPromote: () => true,
    now: () => now,
    wallNow: () => now,
    random: () => 1,
  }, choice);
  return { it, track, dials, failed, pass: (/** @type {number} */ ms) => {
    now += ms;
    mock.timers.tick(ms);
  } };
}

test('a lost connection is dialled at once, then with growing pauses', () => timed(async () => {
  const { it, track, dials, failed, pass } = reconnector();
  it.live('webtransport');
  it.lost();
  assert.deepEqual(dials, ['auto']);
  track.fail('webtransport');
  await turn();
  assert.deepEqual(failed, [['unreachable', 1_000]]);
  pass(999);
  assert.equal(dials.length, 1);
  pass(1);
  assert.equal(dials.length, 2);
  it.hinted();
  assert.equal(dials.length, 3, 'a hint does not wait');
  it.stop();
}));

test('connections that come about and do not hold are not dialled in a tight loop', () => timed(async () => {
  const { it, track, dials, pass } = reconnector('websocket');
  const pauses = [];
  for (let round = 0; round < 5; round += 1) {
    it.live('websocket');
    it.lost();
    let waited = 0;
    for (; dials.length === round; waited += 500) pass(500);
    pauses.push(waited);
    track.finish('websocket');
    await turn();
  }
  assert.deepEqual(pauses, [0, 1_000, 2_000, 2_000, 2_000]);
  it.live('websocket');
  pass(1_000);
  it.lost();
  assert.equal(dials.length, 6, 'one that held is dialled again at once');
  it.stop();
}));

test('what failed before a connection that holds slows nothing down beside it', () => timed(async () => {
  const { it, track, failed, pass } = reconnector('websocket');
  it.lost();
  for (const pause of [1_000, 2_000, 4_000]) {
    track.fail('websocket');
    await turn();
    pass(pause);
  }
  track.finish('websocket');
  await turn();
  it.live('websocket');
  pass(60_000);
  it.draining(0);
  failed.splice(0);
  for (const pause of [0, 1_000]) {
    track.fail('websocket');
    await turn();
    pass(pause);
  }
  assert.deepEqual(failed, [['unreachable', 0], ['unreachable', 1_000]]);
  it.stop();
}));

test('a WebSocket session tries WebTransport later, and moves', () => timed(async () => {
  const { it, track, dials, pass } = reconnector();
  it.live('websocket');
  pass(14_999);
  assert.deepEqual(dials, []);
  pass(1);
  assert.deepEqual(dials, ['webtransport']);
  track.fail('webtransport');
  await turn();
  pass(24_999);
  assert.equal(dials.length, 1);
  pass(1);
  assert.deepEqual(dials, ['webtransport', 'webtransport']);
  track.finish('webtransport');
  await turn();
  it.live('webtransport');
  pass(3_600_000);
  assert.equal(dials.length, 2);
  it.stop();
}));

test('a try to move to WebTransport holds up no dial that is needed', () => timed(async () => {
  const { it, track, dials, pass } = reconnector();
  const promoted = () => {
    it.live('websocket');
    pass(3_600_000);
    return dials.splice(0);
  };
  assert.deepEqual(promoted(), ['webtransport']);
  it.lost();
  assert.deepEqual(dials.splice(0), ['auto'], 'lost meanwhile');
  assert.deepEqual(track.events, ['webtransport starts', 'webtransport cancelled', 'webtransport starts']);
  assert.deepEqual(promoted(), ['webtransport']);
  it.draining(100);
  pass(99);
  assert.deepEqual(dials, [], 'it may still get there');
  pass(1);
  assert.deepEqual(dials.splice(0), ['auto'], 'drained meanwhile');
  pass(100);
  it.lost();
  assert.deepEqual(dials, [], 'that dial is good for the loss too');
  assert.deepEqual(promoted(), ['webtransport']);
  it.lost(2_000);
  pass(2_999);
  assert.deepEqual(dials, [], 'the gateway is obeyed');
  pass(1);
  assert.deepEqual(dials, ['auto']);
  it.stop();
}));

test('a WebSocket chosen where there is one already stays: no try to move is begun or finished', () => timed(async () => {
  const { it, track, dials, pass } = reconnector();
  it.live('websocket');
  it.choose('websocket');
  pass(3_600_000);
  assert.deepEqual(dials, []);
  it.choose('auto');
  track.finish('webtransport');
  await turn();
  it.live('websocket');
  pass(3_600_000);
  assert.deepEqual(dials, ['auto', 'webtransport']);
  it.choose('websocket');
  assert.equal(track.events.at(-1), 'webtransport cancelled');
  it.stop();
}));

test('beside a silent connection it is dialled until another one is there or the old one speaks', () => timed(async () => {
  const { it, track, dials, failed, pass } = reconnector('websocket');
  const dialled = async () => {
    track.fail('websocket');
    await turn();
    return [dials.length, failed.at(-1)?.[1]];
  };
  it.live('websocket');
  it.stalled();
  assert.deepEqual(await dialled(), [1, 1_000]);
  pass(1_000);
  assert.deepEqual(await dialled(), [2, 2_000]);
  it.recovered();
  pass(3_600_000);
  assert.equal(dials.length, 2);
  it.stalled();
  it.lost();
  assert.equal(dials.length, 3, 'one dial for both');
  track.finish('websocket');
  await turn();
  it.live('websocket');
  it.dialNow();
  assert.deepEqual(await dialled(), [4, null], 'whoever is carried does not insist');
  it.stop();
}));

test('a connection that is about to end is dialled beside until another one is there', () => timed(async () => {
  for (const begin of [(/** @type {Reconnector} */ it) => it.draining(100), (/** @type {Reconnector} */ it) => it.hinted()]) {
    const { it, track, dials, failed, pass } = reconnector('websocket');
    it.live('websocket');
    begin(it);
    pass(100);
    for (const pause of [0, 0, 1_000]) {
      pass(pause);
      track.fail('websocket');
      await turn();
    }
    assert.deepEqual(failed.splice(0), [['unreachable', 0], ['unreachable', 1_000], ['unreachable', 2_000]]);
    assert.equal(dials.length, 3);
    it.lost();
    assert.equal(dials.length, 4, 'once it is lost there is no time to lose');
    track.finish('websocket');
    await turn();
    it.live('websocket');
    it.dialNow();
    track.fail('websocket');
    await turn();
    assert.deepEqual(failed, [['unreachable', null]], 'what carries it now is not about to end');
    it.stop();
  }
}));

test('the gateway is obeyed when it puts off whoever is still carried, also if that ends meanwhile', () => timed(async () => {
  const { it, track, dials, pass } = reconnector('websocket');
  it.live('websocket');
  it.draining(0);
  track.finish('websocket');
  await turn();
  it.refused(undefined, { timedOut: false, retryAfter: 5_000 });
  it.lost();
  pass(4_999);
  assert.equal(dials.length, 1);
  pass(1_001);
  assert.equal(dials.length, 2);
  it.stop();
}));

test('what one greeting was told holds for the next dial, also if another greeting came to nothing first', () => timed(async () => {
  const { it, track, dials, pass } = reconnector('websocket');
  it.lost();
  track.finish('websocket');
  await turn();
  it.refused(undefined, { timedOut: false, retryAfter: 5_000, others: true });
  it.refused(undefined, { timedOut: false });
  pass(4_999);
  assert.equal(dials.length, 1);
  pass(1_001);
  assert.equal(dials.length, 2);
  it.stop();
}));

test('nor is something better tried before that', () => timed(async () => {
  const { it, track, dials, pass } = reconnector();
  it.live('websocket');
  pass(15_000);
  assert.deepEqual(dials.splice(0), ['webtransport']);
  track.finish('webtransport');
  await turn();
  it.refused(undefined, { timedOut: false, retryAfter: 60_000 });
  pass(60_000);
  assert.deepEqual(dials, []);
  pass(25_000);
  assert.deepEqual(dials, ['webtransport']);
  it.stop();
}));

test('what a drain plans is not put off by a link that moves again, nor hurried by a try to move that fails', () => timed(async () => {
  const { it, track, dials, failed, pass } = reconnector();
  it.live('websocket');
  pass(15_000);
  assert.deepEqual(dials.splice(0), ['webtransport']);
  it.draining(100);
  track.fail('webtransport');
  await turn();
  assert.deepEqual([dials, failed.pop()], [[], ['unreachable', null]]);
  it.recovered();
  pass(100);
  assert.deepEqual(dials, ['auto']);
  it.stop();
}));

test('a greeting that was given up is said again, unless another one is on its way', () => timed(async () => {
  const { it, track, dials, failed, pass } = reconnector('websocket');
  const opened = async () => {
    track.finish('websocket');
    await turn();
  };
  it.live('websocket');
  it.hinted();
  await opened();
  it.forestalled();
  assert.equal(dials.length, 2);
  it.refused(undefined, { timedOut: false });
  assert.equal(dials.length, 2, 'an older one is nobody\'s loss');
  await opened();
  it.refused(undefined, { timedOut: false, others: true });
  assert.deepEqual([dials.length, failed], [2, []]);
  it.live('websocket');
  // What would only have been better is tried again in its own time.
  it.dialNow();
  await opened();
  it.forestalled();
  pass(60_000);
  assert.equal(dials.length, 3);
  it.stop();
}));

test('a choice is tried until it is met, or given up when it fails', () => timed(async () => {
  const { it, track, dials, pass } = reconnector();
  it.live('websocket');
  it.choose('webtransport');
  it.live('websocket');
  assert.deepEqual(dials.splice(0), ['webtransport', 'webtransport'], 'an older connection of ours came first');
  track.finish('webtransport');
  await turn();
  it.forestalled();
  assert.deepEqual(dials.splice(0), ['webtransport']);
  it.effects.failed = () => it.revert('auto');
  track.fail('webtransport');
  await turn();
  pass(24_999);
  assert.deepEqual(dials, [], 'it stays where it is');
  pass(1);
  assert.deepEqual(dials.splice(0), ['webtransport'], 'and may move later, by itself');
  it.live('websocket');
  // With a drain under way it moves all the same, by what was chosen before.
  it.hinted();
  it.choose('webtransport');
  track.fail('webtransport');
  await turn();
  assert.deepEqual(dials, ['auto', 'webtransport', 'auto']);
  it.choose('websocket');
  it.live('webtransport');
  it.revert('auto');
  assert.equal(track.events.at(-1), 'websocket cancelled');
  // Nor is anything dialled for it that was still to come.
  dials.splice(0);
  it.choose('websocket');
  track.finish('websocket');
  await turn();
  it.forestalled();
  it.revert('auto');
  pass(4_000);
  assert.deepEqual(dials, ['websocket']);
  it.stop();
}));

test('a machine that wakes up dials once, whoever notices first', () => timed(async () => {
  const { it, dials, pass } = reconnector();
  it.live('webtransport');
  it.lost();
  pass(999);
  it.woken();
  assert.equal(dials.length, 1, 'the loss was noticed first');
  pass(1);
  it.woken();
  assert.equal(dials.length, 2, 'a dial from before the sleep is worth nothing');
  it.stop();
}));

test('WebTransport that stalls again and again is left for a WebSocket', () => timed(async () => {
  const { it, dials, pass } = reconnector();
  it.live('webtransport');
  it.stalled();
  it.live('webtransport');
  pass(1_000);
  it.stalled();
  assert.deepEqual(dials, ['auto', 'websocket']);
  it.stop();
}));

test('a choice that is met already moves nothing', () => {
  const { it, dials } = reconnector('webtransport');
  it.live('webtransport');
  it.choose('auto');
  it.choose('webtransport');
  assert.deepEqual(dials, []);
  it.choose('websocket');
  assert.deepEqual(dials, ['websocket']);
  it.stop();
});

test('WebTransport that opens and is never welcomed is left at once', () => timed(async () => {
  const { it, dials, pass } = reconnector();
  it.dialNow();
  it.refused(/** @type {Transport} */ ({ kind: 'webtransport' }), { timedOut: true });
  it.dialNow();
  assert.deepEqual(dials, ['auto', 'websocket']);
  pass(60_000);
  it.dialNow();
  assert.equal(dials.at(-1), 'auto');
  it.stop();
}));

test('addresses lead to endpoints', async () => {
  const identity = { algorithm: 'sha-256', value: btoa('hash'), expires: 1, port: 5_000 };
  const answer = (/** @type {any} */ body, ok = true) => /** @type {any} */ (async () => ({ ok, json: async () => body }));
  const secure = await findEndpoints('https://gate.example/room', { fetch: () => assert.fail() });
  assert.deepEqual(secure, { websocket: 'wss://gate.example/v1/ws', webtransport: 'https://gate.example/v1/wt', certificateHash: undefined });
  const plain = await findEndpoints('http://localhost:8080', { fetch: answer(identity) });
  assert.equal(plain.webtransport, 'https://localhost:5000/v1/wt');
  assert.deepEqual(new Uint8Array(plain.certificateHash ?? new ArrayBuffer(0)), new TextEncoder().encode('hash'));
  assert.equal((await findEndpoints('http://localhost:8080', { fetch: answer({}, false) })).webtransport, null);
  const silent = async () => Promise.reject(new TypeError('no network'));
  const guess = await findEndpoints('http://localhost:8080', { fetch: silent, known: plain });
  assert.deepEqual(guess, { ...plain, isGuess: true }, 'what was known stays true while nobody answers');
  assert.equal((await findEndpoints('http://localhost:8080', { fetch: silent })).webtransport, null);
  assert.equal((await findEndpoints('http://localhost:8080', { webTransport: false, fetch: () => assert.fail() })).webtransport, null);
  await assert.rejects(findEndpoints('ftp://x'), { code: 'bad_request' });
});
