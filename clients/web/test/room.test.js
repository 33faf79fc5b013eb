/** What a room tells whom. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { HandoverError } from '../src/errors.js';
import { Room } from '../src/room.js';

beforeEach(() => mock.timers.enable({ apis: ['setTimeout'] }));
afterEach(() => mock.timers.reset());

/** @param {number} offset */
const message = (offset) => ({ type: /** @type {const} */ ('message'), lane: /** @type {const} */ ('signal'), epoch: 'e', offset, from: 'other', to: null, body: offset });

test('what came right behind the answer is told, also if the end was right behind that', async () => {
  const room = new Room(/** @type {any} */ ({ peer: 'me' }), 'r');
  room.handle(message(1));
  room.finish(new HandoverError('closed'));
  /** @type {any[]} */
  const heard = [];
  room.listen('message', ({ body }) => heard.push(body));
  room.listen('closed', ({ error }) => heard.push(error?.code));
  const messages = room.messages();
  mock.timers.tick(0);
  assert.deepEqual(heard, [1, 'closed']);
  assert.equal((await messages.next()).value.body, 1);
  await assert.rejects(messages.next(), { code: 'closed' });
  assert.equal(room.isClosed, true);
});

test('a reset goes to those who listen and into events, and messages go on behind it', async () => {
  const room = new Room(/** @type {any} */ ({ peer: 'me' }), 'r');
  mock.timers.tick(0);
  /** @type {string[]} */
  const resets = [];
  room.listen('reset', ({ reason }) => resets.push(reason));
  const [messages, events] = [room.messages(), room.events()];
  room.handle(message(1));
  room.handle({ type: 'reset', reason: 'trimmed', members: [] });
  room.handle(message(9));
  room.finish(null);
  const bodies = [];
  for await (const { body } of messages) bodies.push(body);
  const types = [];
  for await (const { type } of events) types.push(type);
  assert.deepEqual([bodies, types, resets], [[1, 9], ['message', 'reset', 'message'], ['trimmed']]);
});
