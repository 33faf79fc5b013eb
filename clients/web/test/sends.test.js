/** What waits to be accepted on one lane. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Sends, SETTLE_TIMEOUT_MS } from '../src/session/sends.js';

/** @param {number} count */
function sends(count) {
  const lane = new Sends();
  for (let id = 1; id <= count; id += 1) lane.push(id, undefined, String(id));
  return lane;
}

/**
 * Everything that goes out now: [number, which].
 * @param {Sends} lane
 */
function out(lane, now = 0) {
  const went = [];
  for (let item = lane.transmit(now); item !== null; item = lane.transmit(now)) went.push([item.seq, item.id]);
  return went;
}

const ids = (/** @type {{id: number}[]} */ items) => items.map(({ id }) => id);

test('numbers count up, and accepted is cumulative', () => {
  const lane = sends(3);
  assert.deepEqual(out(lane), [[1, 1], [2, 2], [3, 3]]);
  assert.deepEqual(ids(lane.accept(2)), [1, 2]);
  assert.deepEqual(ids(lane.accept(2)), []);
  assert.deepEqual(ids(lane.accept(3)), [3]);
  assert.equal(lane.cost, 0);
});

test('behind a refused one the others take its number, once all are answered', () => {
  const lane = sends(4);
  out(lane);
  assert.deepEqual(ids(lane.accept(1)), [1]);
  assert.deepEqual(lane.refuse(0, 2, { code: 'no_such_peer' }), { id: 2, uncertain: false });
  lane.push(5, undefined, '5');
  assert.deepEqual(out(lane), [], 'the lane settles first');
  assert.equal(lane.refuse(0, 3, { code: 'seq_gap', expected: 2 }), null);
  assert.deepEqual(out(lane), []);
  assert.equal(lane.refuse(0, 4, { code: 'seq_gap', expected: 2 }), null);
  assert.deepEqual(out(lane), [[2, 3], [3, 4], [4, 5]]);
});

test('later means the same number after the wait', () => {
  const lane = sends(2);
  out(lane);
  lane.refuse(100, 1, { code: 'unavailable', retry_after: 500 });
  lane.refuse(100, 2, { code: 'seq_gap', expected: 1 });
  assert.deepEqual(out(lane, 599), []);
  assert.equal(lane.due(), 600);
  assert.deepEqual(out(lane, 600), [[1, 1], [2, 2]]);
});

test('after a resume only what was not applied goes out again', () => {
  const lane = sends(3);
  out(lane);
  lane.push(4, undefined, '4');
  lane.resume(2);
  assert.deepEqual(out(lane), [[3, 3], [4, 4]]);
  assert.deepEqual(ids(lane.accept(2)), [1, 2], 'answered in the replay');
});

test('a lost session leaves what was under way uncertain and keeps the rest', () => {
  const lane = sends(1);
  out(lane);
  lane.push(2, undefined, '2');
  assert.deepEqual(ids(lane.disown()), [1]);
  assert.deepEqual(out(lane), [[1, 2]]);
});

test('a gateway that leaves answers out is found out', () => {
  const lane = sends(2);
  out(lane);
  lane.refuse(0, 1, { code: 'no_such_peer' });
  assert.equal(lane.isOutOfStep(SETTLE_TIMEOUT_MS - 1), false);
  assert.equal(lane.isOutOfStep(SETTLE_TIMEOUT_MS), true);
});

test('where less is applied than was said, nobody can tell what became of what went out', () => {
  const lane = sends(4);
  lane.transmit(0);
  lane.transmit(0);
  assert.deepEqual(ids(lane.accept(1)), [1]);
  lane.transmit(0);
  const { accepted, uncertain } = lane.start(0);
  assert.deepEqual([ids(accepted), ids(uncertain)], [[], [2, 3]]);
  assert.deepEqual(out(lane), [[1, 4]], 'what had not gone out does now');
  assert.deepEqual(ids(lane.accept(1)), [4]);
  assert.equal(lane.cost, 0);
});

test('what the gateway failed on may be in the log all the same', () => {
  const failed = () => {
    const lane = sends(2);
    lane.transmit(0);
    lane.refuse(0, 1, { code: 'unavailable', retry_after: 500 });
    return lane;
  };
  assert.deepEqual(out(failed(), 500), [[1, 1], [2, 2]], 'said again under its number');
  const announced = failed();
  assert.deepEqual(ids(announced.accept(1)), [1]);
  assert.deepEqual(out(announced, 500), [[2, 2]]);
  const resumed = failed();
  assert.deepEqual(resumed.resume(1), []);
  assert.deepEqual(out(resumed), [[2, 2]]);
  assert.deepEqual(ids(resumed.accept(2)), [1, 2]);
  const begun = failed();
  assert.deepEqual(ids(begun.start(1).accepted), [1]);
  assert.deepEqual(ids(failed().disown()), [1]);
  const refused = failed();
  out(refused, 500);
  assert.deepEqual(refused.refuse(500, 1, { code: 'too_large' }), { id: 1, uncertain: true });
});

test('a gateway that contradicts itself is asked again on a new connection', () => {
  const lane = sends(2);
  lane.resume(10);
  assert.deepEqual(out(lane), [[11, 1], [12, 2]]);
  lane.refuse(0, 11, { code: 'seq_gap', expected: 1 });
  assert.equal(lane.isOutOfStep(0), true);
  assert.deepEqual(ids(lane.resume(0)), [2], 'which was not answered');
  assert.deepEqual(out(lane), [[1, 1]]);
});

test('a wait that is over is no reason to look again', () => {
  const lane = sends(1);
  out(lane);
  lane.refuse(0, 1, { code: 'unavailable', retry_after: 500 });
  lane.handleTimeout(499);
  assert.equal(lane.due(), 500);
  lane.handleTimeout(500);
  assert.equal(lane.due(), Infinity);
  assert.deepEqual(out(lane, 500), [[1, 1]]);
});

test('a lane that settles has nothing to do before that is over', () => {
  const lane = sends(3);
  lane.transmit(0);
  lane.transmit(0);
  lane.refuse(0, 1, { code: 'unavailable', retry_after: 500 });
  assert.equal(lane.due(), SETTLE_TIMEOUT_MS);
  lane.refuse(0, 2, { code: 'seq_gap', expected: 1 });
  assert.equal(lane.due(), 500);
});
