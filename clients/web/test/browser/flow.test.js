/** Sessions that move between transports and connections under a steady flow, in both directions. */
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { launchChromium } from './browsers.js';
import { complete, flowing, FlowPage } from './flow.js';
import { Path } from './path.js';

/** @type {import('./browsers.js').Browser} */
let browser;
/** @type {Path | undefined} */
let path;

before(async () => {
  browser = await launchChromium();
});
afterEach(async () => {
  for (const page of (await browser.pages()).slice(1)) await page.close();
  await path?.close();
  path = undefined;
});
after(() => browser?.close());

/**
 * @param {Path} path
 */
async function pair(path) {
  const stays = await FlowPage.open(browser, path.url, { name: 'stays', room: 'flow', transport: 'websocket' });
  const moves = await FlowPage.open(browser, path.url, { name: 'moves', room: 'flow' });
  return flowing({ stays, moves });
}

test('a session that had to start on a WebSocket moves to WebTransport once packets pass, and back when they stop', async (t) => {
  path = await Path.open({ udp: false });
  const pages = await pair(path);
  const { moves } = pages;
  await moves.isOn('websocket');
  path.udp = true;
  await moves.moved(0, 'webtransport');
  await moves.neverLost();
  path.udp = false;
  await moves.moved(1, 'websocket');
  path.udp = true;
  await moves.wentOnline();
  await moves.moved(2, 'webtransport');
  await complete(t, pages);
});

for (const [what, hint] of /** @type {[string, (page: FlowPage) => Promise<void>][]} */ ([
  ['says that it is online again', (page) => page.wentOnline()],
  ['has another kind of network', (page) => page.networkChanged()],
])) {
  test(`a browser that ${what}: another connection takes over before the old one is let go`, async (t) => {
    path = await Path.open();
    const pages = await pair(path);
    const { moves } = pages;
    await moves.isOn('webtransport');
    await hint(moves);
    await moves.moved(0, 'webtransport');
    await moves.neverLost();
    await complete(t, pages);
  });
}

test('a laptop that slept is back after one round of dialling', async (t) => {
  path = await Path.open({ settings: { HANDOVER_HEARTBEAT_MS: '1000' } });
  const pages = await pair(path);
  const { moves, stays } = pages;
  await moves.isOn('webtransport');
  const before = (await moves.record()).notes.length;
  await moves.sleep();
  path.udp = false;
  // Until the gateway has given the connection up, and said so.
  await stays.until(() => /** @type {any} */ (window).flow.room.others.some((/** @type {any} */ { away }) => away));
  path.udp = true;
  await moves.wake();
  await moves.isOn('webtransport');
  const { notes } = await moves.record();
  const dials = notes.slice(before).filter((note) => note.startsWith('dialling'));
  assert.deepEqual(dials, ['dialling (auto)'], notes.join('\n'));
  await complete(t, pages);
});
