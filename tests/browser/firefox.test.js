/** Firefox ESR on one side, Chromium on the other. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { chromium, firefox } from './browsers.js';
import { call } from './call.js';
import { startGateway } from './gateway.js';

/** @type {Awaited<ReturnType<typeof startGateway>>} */
let gateway;
/** @type {import('puppeteer-core').Browser} */
let fox;
/** @type {import('puppeteer-core').Browser} */
let other;

before(async () => {
  [gateway, fox, other] = await Promise.all([startGateway(), firefox(), chromium()]);
});

after(async () => {
  await Promise.all([fox?.close(), other?.close()]);
  assert.deepEqual(await gateway?.stop(), []);
});

test('Firefox on WebTransport, Chromium on WebSocket', async (t) => {
  t.diagnostic(await fox.version());
  await call(t, {
    url: gateway.url,
    title: 'firefox-webtransport',
    one: { browser: fox, transport: 'webtransport' },
    other: { browser: other, transport: 'websocket' },
  });
});

test('Chromium on WebTransport, Firefox on WebSocket', async (t) => {
  await call(t, {
    url: gateway.url,
    title: 'firefox-websocket',
    one: { browser: other, transport: 'webtransport' },
    other: { browser: fox, transport: 'websocket' },
  });
});
