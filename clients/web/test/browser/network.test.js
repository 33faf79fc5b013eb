/** The call while its network goes away, comes back, and becomes another one. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launchChromium, openCall } from './browsers.js';
import { Path } from './path.js';

/** @type {Path} */
let path;
/** @type {import('./browsers.js').Browser} */
let browser;
/** @type {import('./browsers.js').CallPage} */
let ada;
/** @type {import('./browsers.js').CallPage} */
let grace;

before(async () => {
  path = await Path.open();
  browser = await launchChromium();
  ada = await openCall(browser, path.url, { name: 'Ada', room: 'network', losable: true });
  grace = await openCall(browser, path.url, { name: 'Grace', room: 'network', width: 390, height: 780 });
});
after(async () => {
  await browser?.close();
  await path?.close();
});

test('no network: said at once, nothing typed is lost, ICE starts anew, and the gap is shown', async (t) => {
  await Promise.all([ada.seesVideo(), grace.seesVideo()]);
  const [peer, life] = [(await ada.status()).peer, await ada.iceLife()];
  path.cut();
  await ada.loseNetwork(true);
  for (const [page, text] of /** @type {const} */ ([[ada, 'Ada typed offline'], [grace, 'Grace typed offline']])) {
    await page.until(() => document.getElementById('status-text')?.textContent === 'Reconnecting');
    await page.says('(Connection lost|No network|The gateway does not answer). Reconnecting');
    await page.say(text);
  }
  await ada.seesNothingNew();
  await ada.shot('network-gone');
  await grace.shot('network-gone');
  path.mend();
  await ada.loseNetwork(false);
  for (const [page, text] of /** @type {const} */ ([[ada, 'Grace typed offline'], [grace, 'Ada typed offline']])) {
    const said = await page.says('Back on Web(Transport|Socket) after [\\d.]+ s\\. The session went on');
    await page.shot('network-back');
    t.diagnostic(`${page.name}: ${said.split('\n')[0]}`);
    await page.reads(text);
  }
  await Promise.all([ada.iceRestarted(life), ada.seesVideo(), grace.seesVideo()]);
  for (const page of [ada, grace]) {
    assert.deepEqual([await page.count('Ada typed offline'), await page.count('Grace typed offline')], [1, 1], page.name);
    assert.ok(await page.page.$eval('#gap-last', (gap) => Number.parseFloat(gap.textContent ?? '') > 0));
  }
  assert.equal((await ada.status()).peer, peer);
});

test('another address: the connection is kept, and ICE starts anew because the gateway says so', async () => {
  await ada.isOn('webtransport');
  const life = await ada.iceLife();
  const connections = await ada.connections();
  path.move();
  await ada.says('Your network address changed');
  await Promise.all([ada.iceRestarted(life), ada.seesVideo(), grace.seesVideo()]);
  assert.deepEqual(await ada.connections(), connections);
  await ada.say('from another address');
  await grace.reads('from another address');
  assert.deepEqual([...ada.errors, ...grace.errors], []);
});
