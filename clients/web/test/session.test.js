/** The session, one rule at a time. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ClientSession, WELCOME_TIMEOUT_MS } from '../src/session.js';
import { SETTLE_TIMEOUT_MS } from '../src/session/sends.js';

const WELCOME = {
  type: 'welcome', session: 's', secret: 'k', peer: 'me', user: null, resumed: false, rooms: {}, lost: [],
  heartbeat: 15_000, resume_window: 120_000,
  limits: { message_bytes: 65_536, metadata_bytes: 4_096, ephemeral_bytes: 800, room_bytes: 128, rooms: 64 },
};
const SELF = { peer: 'me', user: null, metadata: {}, since: 1, away: false };
const OTHER = { peer: 'other', user: null, metadata: {}, since: 2, away: false };
const JOINED = { type: 'joined', id: 1, room: 'r', epoch: 'e', signal: 2, bulk: 5, seq: { signal: 0, bulk: 0 }, members: [SELF, OTHER] };
const START = { type: 'position', room: 'r', lane: 'bulk', epoch: 'e', offset: 5, start: true };

class Bench {
  constructor() {
    this.session = new ClientSession();
    this.now = 0;
  }

  /** @param {number} link */
  open(link) {
    this.session.handleOpened(this.now, link);
    return this.out(link);
  }

  /**
   * @param {number} link
   * @param {...object} messages
   */
  take(link, ...messages) {
    for (const message of messages) this.session.handleMessage(this.now, link, JSON.stringify(message));
  }

  /**
   * What goes out, without pings, which have tests of their own.
   * @param {number} link
   * @returns {any[]}
   */
  out(link, lane = /** @type {'signal' | 'bulk'} */ ('signal')) {
    const texts = [];
    for (let text = this.session.transmit(this.now, link, lane); text !== null; text = this.session.transmit(this.now, link, lane)) texts.push(JSON.parse(text));
    return texts.filter(({ type }) => type !== 'ping');
  }

  /** @returns {any[]} */
  outputs() {
    return this.session.outputs.splice(0);
  }

  /** The bodies of messages since the last look. */
  bodies() {
    return this.outputs().flatMap(({ event }) => (event?.type === 'message' ? [event.body] : []));
  }

  /** A member of `r` on link 1. */
  member() {
    this.open(1);
    this.take(1, WELCOME);
    const id = this.session.join('r', undefined);
    this.out(1);
    this.take(1, { ...JOINED, id }, START);
    this.outputs();
    return this;
  }
}

/** @param {number} offset */
const bulk = (offset, epoch = 'e') => ({ type: 'message', room: 'r', lane: 'bulk', epoch, offset, from: 'other', body: offset });

test('a membership begins on the bulk lane with answer and mark, in either order', () => {
  for (const messages of [
    [bulk(5), { ...JOINED, id: 1 }, bulk(6, 'old'), START, bulk(6), bulk(7)],
    [bulk(5), START, bulk(6), { ...JOINED, id: 1 }, bulk(7)],
    [bulk(5), START, bulk(6), bulk(7), { ...JOINED, id: 1 }],
  ]) {
    const bench = new Bench();
    bench.open(1);
    bench.take(1, WELCOME);
    bench.session.join('r', undefined);
    bench.out(1);
    bench.take(1, ...messages);
    assert.deepEqual(bench.bodies(), [6, 7]);
  }
});

test('what was had is not told again, and positions never go back', () => {
  const bench = new Bench().member();
  bench.take(1, bulk(6), bulk(7), bulk(6), bulk(8, 'other epoch'), { type: 'position', room: 'r', lane: 'bulk', epoch: 'e', offset: 3 }, bulk(7));
  assert.deepEqual(bench.bodies(), [6, 7]);
  bench.session.handleClosed(0, 1);
  assert.deepEqual(bench.open(2)[0].resume, { session: 's', secret: 'k', rooms: { r: { epoch: 'e', signal: 2, bulk: 7 } } });
});

test('members follow the events, of which old ones change nothing', () => {
  const bench = new Bench().member();
  const event = (/** @type {string} */ type, /** @type {number} */ offset, more = {}) => ({ type, room: 'r', epoch: 'e', offset, peer: 'other', ...more });
  bench.take(1, event('member_left', 2, { reason: 'left' }), event('member_away', 3), event('member_updated', 4, { metadata: { x: 1 } }));
  const members = bench.session.rooms.get('r')?.members;
  assert.deepEqual(members?.get('other'), { ...OTHER, away: true, metadata: { x: 1 } });
  bench.take(1, event('member_back', 5), event('member_left', 6, { reason: 'bye' }));
  assert.equal(members?.has('other'), false);
});

test('a newer connection takes over: what it brings before its welcome is kept', () => {
  const bench = new Bench().member();
  const [hello] = bench.open(2);
  assert.equal(hello.resume.rooms.r.bulk, 5);
  bench.take(1, bulk(6));
  bench.take(2, bulk(6), bulk(7), { ...WELCOME, resumed: true, rooms: { r: { seq: { signal: 0, bulk: 0 } } } });
  const outputs = bench.outputs();
  assert.deepEqual(outputs.filter(({ type }) => type === 'close_link'), [{ type: 'close_link', link: 1, why: 'replaced' }]);
  assert.deepEqual(outputs.flatMap(({ event }) => (event ? [event.body] : [])), [6, 7]);
  assert.ok(!outputs.some(({ type }) => type === 'down'));
});

test('a greeting that a reset outruns is given up, one that is not said yet is not', () => {
  const reset = { ...JOINED, id: undefined, type: 'reset', reason: 'epoch', epoch: 'f', signal: 7, bulk: 0 };
  const closed = (/** @type {Bench} */ bench) => bench.outputs().filter(({ type }) => type === 'close_link');
  const bench = new Bench().member();
  bench.open(2);
  bench.take(1, reset);
  assert.deepEqual(bench.outputs().filter(({ link }) => link === 2), [
    { type: 'forestalled', link: 2 },
    { type: 'close_link', link: 2, why: 'not_now' },
  ]);
  // It may have arrived all the same.
  bench.take(1, { type: 'close', code: 4504, reason: 'replaced' });
  assert.ok(!bench.outputs().some(({ type }) => type === 'ended'));
  const [hello] = bench.open(3);
  assert.deepEqual(hello.resume.rooms.r, { epoch: 'f', signal: 7, bulk: 0 });

  const joins = new Bench().member();
  const request = joins.session.join('another', undefined);
  joins.out(1);
  joins.open(2);
  joins.take(1, { ...JOINED, id: request, room: 'another', signal: 3 });
  assert.deepEqual(closed(joins), [{ type: 'close_link', link: 2, why: 'not_now' }]);
  assert.equal(joins.open(3)[0].resume.rooms.another.signal, 3);

  const later = new Bench().member();
  later.session.handleOpened(later.now, 2);
  later.take(1, reset);
  assert.deepEqual(closed(later), []);
  assert.equal(later.out(2)[0].resume.rooms.r.epoch, 'f');
});

test('replaced by a connection of our own is no end, by a stranger it is', () => {
  const close = { type: 'close', code: 4504, reason: 'replaced' };
  const ours = new Bench().member();
  ours.open(2);
  ours.take(1, close);
  assert.deepEqual(ours.outputs().map(({ type }) => type), ['handing_over', 'close_link']);
  ours.session.handleClosed(0, 2);
  assert.deepEqual(ours.outputs().map(({ type }) => type), ['link_failed', 'down']);
  const stranger = new Bench().member();
  stranger.take(1, close);
  assert.equal(stranger.outputs().find(({ type }) => type === 'ended').code, 4504);
});

test('a greeting that a later one of ours replaces ends nothing, one that a stranger replaces does', () => {
  const close = { type: 'close', code: 4504, reason: 'replaced' };
  const bench = new Bench().member();
  bench.session.handleClosed(0, 1);
  bench.open(2);
  bench.open(3);
  bench.outputs();
  bench.take(2, close);
  assert.deepEqual(bench.outputs().map(({ type }) => type), ['link_failed', 'close_link']);
  bench.take(3, { ...WELCOME, resumed: true, rooms: { r: { seq: { signal: 0, bulk: 0 } } } });
  assert.equal(bench.session.live, 3);
  // One that was given up may have been heard all the same.
  const late = new Bench().member();
  late.session.handleClosed(0, 1);
  late.open(2);
  late.session.handleTimeout(WELCOME_TIMEOUT_MS);
  late.now = WELCOME_TIMEOUT_MS;
  late.open(3);
  late.outputs();
  late.take(3, close);
  assert.ok(!late.outputs().some(({ type }) => type === 'ended'));
  const stranger = new Bench().member();
  stranger.session.handleClosed(0, 1);
  stranger.open(2);
  stranger.take(2, close);
  assert.equal(stranger.outputs().find(({ type }) => type === 'ended').code, 4504);
});

test('close codes: come back below 4500, stay away above', () => {
  for (const [code, ends] of /** @type {const} */ ([[4000, false], [4005, false], [1006, false], [4500, true], [4505, true], [4999, true]])) {
    const bench = new Bench().member();
    bench.session.handleClosed(0, 1, { code });
    assert.equal(bench.outputs().some(({ type }) => type === 'ended'), ends, String(code));
  }
});

test('what went out is uncertain where the gateway knows of less than it accepted', () => {
  const bench = new Bench().member();
  bench.session.send('r', 'signal', '1');
  const flying = bench.session.send('r', 'signal', '2');
  bench.out(1);
  bench.take(1, { type: 'accepted', room: 'r', lane: 'signal', epoch: 'e', seq: 1, offset: 2 });
  bench.session.handleClosed(0, 1);
  bench.outputs();
  bench.open(2);
  bench.out(2);
  bench.take(2, { ...WELCOME, resumed: true, rooms: { r: { seq: { signal: 0, bulk: 0 } } } });
  const [uncertain] = bench.outputs().filter(({ type }) => type === 'sent');
  assert.deepEqual([uncertain.id, uncertain.error?.code], [flying, 'uncertain']);
  assert.deepEqual(bench.out(2), []);
});

test('a request whose wait is over is no reason to look again', () => {
  const bench = new Bench().member();
  bench.session.join('other', undefined);
  const [join] = bench.out(1);
  bench.take(1, { type: 'error', code: 'rate_limited', message: '', id: join.id, retry_after: 500 });
  assert.equal(bench.session.due(), 500);
  bench.session.handleTimeout(500);
  assert.ok(bench.session.due() > 500);
  assert.deepEqual(bench.out(1).map(({ type }) => type), ['join']);
});

test('a lane that settles when its membership ends gives up no connection', () => {
  const bench = new Bench().member();
  bench.session.send('r', 'signal', '1');
  bench.session.send('r', 'signal', '2');
  bench.out(1);
  bench.take(1, { type: 'error', code: 'too_large', message: '', room: 'r', lane: 'signal', seq: 1 });
  bench.session.handleClosed(0, 1);
  bench.open(2);
  bench.out(2);
  bench.take(2, { ...WELCOME, resumed: true, rooms: {} });
  bench.outputs();
  bench.session.handleTimeout(SETTLE_TIMEOUT_MS);
  assert.ok(!bench.outputs().some(({ type, why }) => type === 'close_link' && why === 'out_of_step'));
});

test('a leave does not wait for what nobody can tell the fate of', () => {
  const bench = new Bench().member();
  bench.session.send('r', 'signal', '1');
  bench.session.send('r', 'signal', '2');
  bench.out(1);
  bench.take(1, { type: 'accepted', room: 'r', lane: 'signal', epoch: 'e', seq: 1, offset: 2 });
  bench.session.leave('r');
  assert.deepEqual(bench.out(1), [], 'the second first');
  bench.session.handleClosed(0, 1);
  bench.open(2);
  bench.out(2);
  bench.take(2, { ...WELCOME, resumed: true, rooms: { r: { seq: { signal: 0, bulk: 0 } } } });
  assert.deepEqual(bench.out(2).map(({ type }) => type), ['leave']);
});

test('a session the gateway does not know: joined anew, sends truthfully sorted', () => {
  const bench = new Bench().member();
  const flying = bench.session.send('r', 'signal', '1');
  bench.out(1);
  bench.session.handleClosed(0, 1);
  const waiting = bench.session.send('r', 'signal', '2');
  bench.open(2);
  bench.take(2, { type: 'error', code: 'session_unknown', message: '' });
  const [uncertain] = bench.outputs().filter(({ type }) => type === 'sent');
  assert.deepEqual([uncertain.id, uncertain.error.code], [flying, 'uncertain']);
  assert.deepEqual(bench.out(2).map(({ type, resume }) => [type, resume]), [['hello', undefined]]);
  bench.take(2, { ...WELCOME, session: 's2', peer: 'me2' });
  const [join] = bench.out(2);
  assert.deepEqual([join.type, join.room], ['join', 'r']);
  bench.take(2, { ...JOINED, id: join.id, epoch: 'f', signal: 1, bulk: 0, members: [{ ...SELF, peer: 'me2' }] });
  const reset = bench.outputs().find(({ type }) => type === 'room').event;
  assert.deepEqual([reset.type, reset.reason, reset.members.length], ['reset', 'new_session', 1]);
  const [send] = bench.out(2);
  assert.deepEqual([send.type, send.seq, send.body], ['send', 1, 2]);
  bench.take(2, { type: 'accepted', room: 'r', lane: 'signal', epoch: 'f', seq: 1, offset: 2 });
  assert.deepEqual(bench.outputs().filter(({ type }) => type === 'sent').map(({ id, receipt }) => [id, receipt.offset]), [[waiting, 2]]);
});

test('a reset tells the new state, and sends go on', () => {
  const bench = new Bench().member();
  const first = bench.session.send('r', 'bulk', '1');
  const second = bench.session.send('r', 'bulk', '2');
  bench.out(1, 'bulk');
  bench.take(1, { ...JOINED, id: undefined, type: 'reset', reason: 'trimmed', epoch: 'e', signal: 40, bulk: 30, seq: { signal: 0, bulk: 1 } });
  const outputs = bench.outputs();
  assert.deepEqual(outputs.find(({ type }) => type === 'sent'), { type: 'sent', id: first, receipt: { epoch: 'e', offset: null } });
  assert.equal(outputs.find(({ type }) => type === 'room').event.reason, 'trimmed');
  assert.deepEqual(bench.out(1, 'bulk'), []);
  bench.take(1, { ...START, offset: 30 }, { type: 'accepted', room: 'r', lane: 'bulk', epoch: 'e', seq: 2, offset: 31 }, bulk(31), bulk(32));
  const after = bench.outputs();
  assert.deepEqual(after.find(({ type }) => type === 'sent'), { type: 'sent', id: second, receipt: { epoch: 'e', offset: 31 } });
  assert.deepEqual(after.flatMap(({ event }) => (event ? [event.body] : [])), [32]);
});

test('a leave waits for what was sent before it', () => {
  const bench = new Bench().member();
  bench.session.send('r', 'bulk', '1');
  const leave = bench.session.leave('r');
  assert.throws(() => bench.session.send('r', 'bulk', '2'), { code: 'not_a_member' });
  assert.deepEqual(bench.out(1), []);
  bench.out(1, 'bulk');
  bench.take(1, { type: 'accepted', room: 'r', lane: 'bulk', epoch: 'e', seq: 1, offset: 6 });
  assert.deepEqual(bench.out(1), [{ type: 'leave', id: leave, room: 'r' }]);
  bench.take(1, { type: 'ok', id: leave });
  assert.equal(bench.session.rooms.size, 0);
});

test('a room can be left however much waits for answers', () => {
  const bench = new Bench().member();
  assert.throws(() => {
    for (;;) bench.session.request({ type: 'ice' });
  }, { code: 'outbox_full' });
  const leave = bench.session.leave('r');
  assert.deepEqual(bench.out(1).at(-1), { type: 'leave', id: leave, room: 'r' });
});

test('requests told "later" are asked again; final refusals are not', () => {
  const bench = new Bench().member();
  const id = bench.session.request({ type: 'ice' });
  bench.out(1);
  bench.take(1, { type: 'error', code: 'unavailable', message: '', id, retry_after: 700 });
  assert.deepEqual(bench.out(1), []);
  bench.now = 700;
  assert.deepEqual(bench.out(1), [{ type: 'ice', id }]);
  bench.take(1, { type: 'error', code: 'forbidden', message: 'no', id });
  assert.equal(bench.outputs().find(({ type }) => type === 'answer').error.code, 'forbidden');
});

test('in a call a silent link is given up within three seconds, and heard again if it wakes', () => {
  const bench = new Bench().member();
  bench.session.setInCall(0, true);
  bench.now = 20;
  // The first one goes out with the welcome.
  bench.take(1, { type: 'pong', id: bench.session.liveness?.asked?.id });
  assert.deepEqual(bench.outputs().find(({ type }) => type === 'rtt'), { type: 'rtt', rtt: 20 });
  bench.now = 1_000;
  assert.equal(JSON.parse(bench.session.transmit(1_000, 1, 'signal') ?? '{}').type, 'ping');
  bench.session.handleTimeout(2_800);
  assert.deepEqual(bench.outputs(), []);
  const due = bench.session.due();
  assert.ok(due < 3_000);
  bench.session.handleTimeout(due);
  assert.deepEqual(bench.outputs(), [{ type: 'stalled', link: 1 }]);
  const asked = bench.session.liveness?.asked?.id;
  bench.now = 60_000;
  bench.take(1, bulk(6));
  assert.deepEqual(bench.bodies(), [6], 'it is heard all the same, which proves one direction only');
  bench.take(1, { type: 'pong', id: asked });
  assert.deepEqual(bench.outputs(), [{ type: 'recovered', link: 1 }]);
  bench.session.handleTimeout(60_000);
  assert.deepEqual(bench.outputs(), [], 'an old question is not held against it');
  assert.equal(JSON.parse(bench.session.transmit(60_000, 1, 'signal') ?? '{}').type, 'ping');
});

test('a link on which nothing of ours arrives any more is given up however much comes: in a call as soon as a silent one', () => {
  const hearing = (/** @type {boolean} */ inCall, /** @type {any} */ heard) => {
    const bench = new Bench().member();
    bench.session.setInCall(0, inCall);
    bench.session.transmit(0, 1, 'signal');
    bench.take(1, { type: 'pong', id: bench.session.liveness?.asked?.id });
    bench.outputs();
    // Others go on talking; of what is said here nothing is answered.
    for (bench.now = 0; bench.now < 60_000; bench.now += 100) {
      bench.session.transmit(bench.now, 1, 'signal');
      bench.take(1, heard);
      bench.session.handleTimeout(bench.now);
      if (bench.outputs().some(({ type }) => type === 'stalled')) return bench.now;
    }
    return Infinity;
  };
  assert.ok(hearing(true, bulk(6)) <= 3_000);
  assert.equal(hearing(false, bulk(6)), 30_000);
  const accepted = { type: 'accepted', room: 'r', lane: 'bulk', epoch: 'e', seq: 1, offset: 6 };
  const busy = hearing(true, accepted);
  assert.ok(busy > 3_000 && busy < 7_000, `an answer to something else puts it off, once: ${busy}`);
});

test('a link that takes nothing is given up like a silent one, without a timer that is always due', () => {
  const bench = new Bench().member();
  bench.session.setInCall(0, true);
  bench.session.transmit(0, 1, 'signal');
  bench.take(1, { type: 'pong', id: bench.session.liveness?.asked?.id });
  bench.outputs();
  // From here on nothing can be written, and so nothing is transmitted.
  const dues = [];
  for (let due = bench.session.due(); due < Infinity && dues.length < 10; due = bench.session.due()) {
    dues.push(due);
    bench.session.handleTimeout(due);
  }
  assert.deepEqual(dues, [1_000, 2_900]);
  assert.deepEqual(bench.outputs(), [{ type: 'stalled', link: 1 }]);
  // It moves again.
  const { type, id } = JSON.parse(bench.session.transmit(9_000, 1, 'signal') ?? '{}');
  assert.equal(type, 'ping');
  bench.take(1, { type: 'pong', id });
  assert.deepEqual(bench.outputs(), [{ type: 'recovered', link: 1 }]);
  // A timer that comes late finds a question due, not a dead link.
  const late = new Bench().member();
  late.take(1, { type: 'pong', id: late.session.liveness?.asked?.id });
  late.outputs();
  late.session.handleTimeout(60_000);
  assert.deepEqual(late.outputs(), []);
  assert.equal(JSON.parse(late.session.transmit(60_000, 1, 'signal') ?? '{}').type, 'ping');
});

test('who is in a call from now on waits no longer for what was asked before', () => {
  const bench = new Bench().member();
  bench.session.transmit(0, 1, 'signal');
  bench.now = 1_000;
  bench.take(1, bulk(6));
  bench.session.setInCall(1_000, true);
  assert.equal(bench.session.due(), 1_900);
});

test('a gateway that does not welcome is left, one that babbles too', () => {
  const bench = new Bench();
  bench.open(1);
  bench.session.handleTimeout(WELCOME_TIMEOUT_MS);
  assert.deepEqual(bench.outputs().map(({ type, timedOut }) => [type, timedOut]), [['link_failed', true], ['close_link', undefined]]);
  const other = new Bench().member();
  other.session.handleMessage(0, 1, 'not json');
  assert.deepEqual(other.outputs().map(({ type }) => type), ['down', 'close_link']);
});

test('the end answers everything', () => {
  const bench = new Bench().member();
  const flying = bench.session.send('r', 'signal', '1');
  bench.out(1);
  const waiting = bench.session.send('r', 'signal', '2');
  const id = bench.session.request({ type: 'ice' });
  bench.session.close();
  assert.deepEqual(bench.out(1), [{ type: 'bye' }]);
  bench.take(1, { type: 'close', code: 4500, reason: 'bye' });
  const outputs = bench.outputs();
  assert.deepEqual(outputs.filter(({ type }) => type === 'sent').map(({ id, error }) => [id, error.code]), [[flying, 'uncertain'], [waiting, 'not_sent']]);
  assert.equal(outputs.find(({ type, id: of }) => type === 'answer' && of === id).error.code, 'closed');
  assert.deepEqual(outputs.find(({ type }) => type === 'ended'), { type: 'ended', error: null, code: 4500 });
  assert.throws(() => bench.session.send('r', 'signal', '3'), { code: 'closed' });
});

test('goodbye is said on the connection that there is, once more if that is another one, and not for nothing', () => {
  const bench = new Bench().member();
  bench.session.close();
  assert.deepEqual(bench.out(1), [{ type: 'bye' }]);
  bench.open(2);
  bench.take(2, { ...WELCOME, resumed: true, rooms: { r: { seq: { signal: 0, bulk: 0 } } } });
  assert.deepEqual(bench.out(2), [{ type: 'bye' }]);
  bench.session.handleClosed(0, 2);
  const [{ type, resume }] = bench.open(3);
  assert.deepEqual([type, resume.session], ['hello', 's']);
  assert.ok(!bench.outputs().some(({ type }) => type === 'ended'));
  bench.take(3, { type: 'error', code: 'session_unknown', message: '' });
  assert.deepEqual(bench.outputs().find(({ type }) => type === 'ended'), { type: 'ended', error: null, code: 4500 });
  const fresh = new Bench();
  fresh.open(1);
  fresh.session.close();
  assert.ok(fresh.session.ended, 'before the first welcome there is nobody to say it for');
});

test('a token that a greeting has brought is not brought again', () => {
  const bench = new Bench().member();
  const { session } = bench;
  const first = session.request({ type: 'refresh', token: 'first' });
  assert.deepEqual(bench.out(1).map(({ type, token }) => [type, token]), [['refresh', 'first']]);
  session.handleClosed(bench.now, 1, { reason: 'cut' });
  session.token = 'second';
  assert.equal(bench.open(2)[0].token, 'second');
  // One that came after the greeting has to be brought.
  const third = session.request({ type: 'refresh', token: 'third' });
  bench.outputs();
  bench.take(2, { ...WELCOME, resumed: true, rooms: { r: { seq: { signal: 0, bulk: 0 } } } });
  const answers = bench.outputs().filter(({ type }) => type === 'answer');
  assert.deepEqual(answers.map(({ id }) => id), [first]);
  const brought = bench.out(2).filter(({ type }) => type === 'refresh');
  assert.deepEqual(brought.map(({ id, token }) => [id, token]), [[third, 'third']]);
});

test('a leave behind a join that is refused for good is answered', () => {
  const bench = new Bench().member();
  bench.session.handleClosed(0, 1);
  bench.open(2);
  bench.take(2, { ...WELCOME, resumed: true, rooms: {} });
  const [join] = bench.out(2);
  assert.equal(join.type, 'join');
  bench.session.send('r', 'bulk', '1');
  bench.session.leave('r');
  bench.out(2);
  bench.take(2, { type: 'error', id: join.id, code: 'room_full', message: 'full' });
  assert.deepEqual(bench.out(2).map(({ type }) => type), ['leave']);
});
