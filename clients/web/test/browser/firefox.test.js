/** The same call with Firefox on one side. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startGateway } from '../gateway-process.js';
import { launchChromium, launchFirefox, openCall } from './browsers.js';
import { complete, flowing, FlowPage } from './flow.js';
import { Path } from './path.js';

/** @type {import('../gateway-process.js').Gateway} */
let gateway;
/** @type {import('./browsers.js').Browser[]} */
let browsers = [];

before(async () => {
  gateway = await startGateway();
  browsers = await Promise.all([launchChromium(), launchFirefox()]);
});
after(async () => {
  await Promise.all(browsers.map((browser) => browser.close()));
  await gateway?.stop();
});

for (const transport of ['websocket', 'webtransport']) {
  test(`Firefox on ${transport} calls Chromium`, async () => {
    const [chromium, firefox] = /** @type {[any, any]} */ (browsers);
    const room = `with firefox on ${transport}`;
    const ada = await openCall(chromium, gateway.url, { name: 'Ada', room, transport: 'webtransport' });
    const fox = await openCall(firefox, gateway.url, { name: 'Fox', room, transport });
    await Promise.all([ada.seesVideo(), fox.seesVideo()]);
    assert.equal((await fox.status()).transport, transport);
    await ada.say('to Firefox');
    await fox.reads('to Firefox');
    await fox.say('from Firefox');
    await ada.reads('from Firefox');
    await ada.pointsAt(fox);
    await fox.pointsAt(ada);
    await fox.press('#plug');
    await fox.until(() => /** @type {any} */ (window).handover.client.state === 'reconnecting');
    await fox.say('typed meanwhile');
    await ada.reads('typed meanwhile');
    assert.equal(await ada.count('typed meanwhile'), 1);
    await fox.shot(`firefox-${transport}`);
    await fox.press('#leave');
    await ada.reads('Fox left');
    await ada.until(() => document.querySelectorAll('.tile').length === 1);
    assert.deepEqual([...ada.errors, ...fox.errors], []);
    await ada.page.close();
    await fox.page.close();
  });
}

test('Firefox goes on on a WebSocket when packets stop passing', async (t) => {
  const [chromium, firefox] = /** @type {[any, any]} */ (browsers);
  const path = await Path.open();
  try {
    const stays = await FlowPage.open(chromium, path.url, { name: 'stays', room: 'flow', transport: 'websocket' });
    const moves = await FlowPage.open(firefox, path.url, { name: 'moves', room: 'flow', transport: 'webtransport' });
    await flowing({ stays, moves });
    await moves.allowAll();
    path.udp = false;
    await moves.moved(0, 'websocket');
    await complete(t, { stays, moves });
    await Promise.all([stays.page.close(), moves.page.close()]);
  } finally {
    await path.close();
  }
});
