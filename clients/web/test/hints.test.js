/** What the browser says about the network, and what is made of it. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { watchHints } from '../src/hints.js';

/** As much of a page as hints come from. */
class FakePage extends EventTarget {
  document = Object.assign(new EventTarget(), { visibilityState: 'visible' });
  connection = Object.assign(new EventTarget(), { type: 'wifi' });

  /** @param {'visible' | 'hidden'} state */
  show(state) {
    this.document.visibilityState = state;
    this.document.dispatchEvent(new Event('visibilitychange'));
  }
}

/** @type {FakePage} */
let page;
/** @type {string[]} */
let hints;
let stop = () => {};
const before = Object.getOwnPropertyDescriptor(globalThis, 'navigator');

beforeEach(() => {
  mock.timers.enable({ apis: ['setInterval', 'Date'] });
  page = new FakePage();
  Object.assign(globalThis, { window: page });
  Object.defineProperty(globalThis, 'navigator', { value: { connection: page.connection }, configurable: true });
  hints = [];
  stop = watchHints((hint) => hints.push(hint));
});
afterEach(() => {
  stop();
  Reflect.deleteProperty(globalThis, 'window');
  if (before) Object.defineProperty(globalThis, 'navigator', before);
  else Reflect.deleteProperty(globalThis, 'navigator');
  mock.timers.reset();
});

test('another network is told from another estimate of the same one', () => {
  page.dispatchEvent(new Event('offline'));
  page.dispatchEvent(new Event('online'));
  page.connection.dispatchEvent(new Event('change'));
  page.connection.type = 'cellular';
  page.connection.dispatchEvent(new Event('change'));
  assert.deepEqual(hints, ['offline', 'online', 'estimated', 'changed']);
});

test('a page that was hidden for long, or came back out of the cache, is shown again', () => {
  page.show('hidden');
  mock.timers.tick(10_000);
  page.show('visible');
  assert.deepEqual(hints, []);
  page.show('hidden');
  mock.timers.tick(10_001);
  page.show('visible');
  page.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: false }));
  page.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: true }));
  assert.deepEqual(hints, ['shown', 'shown']);
});

test('a clock that jumped means that the machine slept; a hidden page is merely slow', () => {
  for (let second = 0; second < 10; second += 1) mock.timers.tick(1_000);
  assert.deepEqual(hints, []);
  mock.timers.setTime(Date.now() + 60_000);
  mock.timers.tick(2_000);
  assert.deepEqual(hints, ['woken']);
  page.show('hidden');
  mock.timers.setTime(Date.now() + 60_000);
  mock.timers.tick(2_000);
  assert.deepEqual(hints, ['woken']);
  page.document.dispatchEvent(new Event('resume'));
  assert.deepEqual(hints, ['woken', 'woken']);
});

test('whoever stops listening hears nothing more', () => {
  stop();
  page.dispatchEvent(new Event('online'));
  mock.timers.setTime(Date.now() + 60_000);
  mock.timers.tick(2_000);
  assert.deepEqual(hints, []);
});
