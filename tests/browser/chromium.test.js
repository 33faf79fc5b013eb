/** Chromium on both sides. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { chromium } from './browsers.js';
import { call } from './call.js';
import { startGateway } from './gateway.js';

/** @type {Awaited<ReturnType<typeof startGateway>>} */
let gateway;
/** @type {import('puppeteer-core').Browser} */
let browser;

before(async () => {
  [gateway, browser] = await Promise.all([startGateway(), chromium()]);
});

after(async () => {
  await browser?.close();
  assert.deepEqual(await gateway?.stop(), []);
});

test('one on WebTransport, one on WebSocket', async (t) => {
  t.diagnostic(await browser.version());
  const one = { browser, transport: /** @type {const} */ ('webtransport') };
  const other = { browser, transport: /** @type {const} */ ('websocket') };
  await call(t, { url: gateway.url, title: 'chromium', one, other });
});
