/** The call page in a real Chromium: one page on each transport, in one room. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startGateway } from '../gateway-process.js';
import { launchChromium, openCall } from './browsers.js';

/** @type {import('../gateway-process.js').Gateway} */
let gateway;
/** @type {import('./browsers.js').Browser} */
let browser;
/** @type {import('./browsers.js').CallPage} */
let ada;
/** @type {import('./browsers.js').CallPage} */
let grace;

before(async () => {
  gateway = await startGateway();
  browser = await launchChromium();
  ada = await openCall(browser, gateway.url, { name: 'Ada', room: 'call', transport: 'webtransport' });
  assert.equal(await ada.isInCall(), false, 'nobody waits for somebody who is alone');
  grace = await openCall(browser, gateway.url, { name: 'Grace', room: 'call', transport: 'websocket' });
});
after(async () => {
  await browser?.close();
  await gateway?.stop();
});

test('pictures flow both ways between the transports', async () => {
  await Promise.all([ada.seesVideo(), grace.seesVideo()]);
  assert.deepEqual([(await ada.status()).transport, (await grace.status()).transport], ['webtransport', 'websocket']);
  assert.deepEqual([await ada.isInCall(), await grace.isInCall()], [true, true]);
  assert.deepEqual([...ada.errors, ...grace.errors], []);
});

test('chat, pointers and reactions reach the other side', async () => {
  await ada.say('from Ada');
  await grace.reads('from Ada');
  await grace.say('from Grace');
  await ada.reads('from Grace');
  for (const [from, to] of /** @type {const} */ ([[ada, grace], [grace, ada]])) {
    await from.pointsAt(to);
    const reacting = setInterval(() => void from.press('[data-reaction=heart]').catch(() => {}), 300);
    try {
      await to.until(() => document.querySelector('.reaction') !== null);
    } finally {
      clearInterval(reacting);
    }
  }
  await ada.until(() => document.querySelectorAll('#people .rtt').length === 2
    && [...document.querySelectorAll('#people .rtt')].every((cell) => cell.textContent?.endsWith('ms')));
  await ada.shot('call');
});

test('a switch of transports in mid-call interrupts nothing', async () => {
  const { peer } = await ada.status();
  for (const transport of ['websocket', 'webtransport']) {
    const sent = ada.say(`before ${transport}`);
    await ada.press(`input[value=${transport}]`);
    await ada.say(`after ${transport}`);
    await sent;
    await ada.isOn(transport);
    await grace.reads(`after ${transport}`);
    assert.equal(await grace.count(`before ${transport}`), 1);
  }
  assert.equal((await ada.status()).peer, peer);
  await Promise.all([ada.seesVideo(), grace.seesVideo()]);
});

test('the plug is pulled: what is typed meanwhile arrives once, the gap is shown', async () => {
  await ada.press('#plug');
  await ada.until(() => /** @type {any} */ (window).handover.client.state === 'reconnecting');
  await ada.say('typed without a connection');
  await ada.shot('reconnecting');
  await ada.isOn('webtransport');
  await grace.reads('typed without a connection');
  await ada.says('Back on WebTransport after');
  assert.equal(await grace.count('typed without a connection'), 1);
  assert.equal(await ada.count('typed without a connection'), 1);
  await Promise.all([ada.seesVideo(), grace.seesVideo()]);
  await ada.shot('back');
});

test('the protocol log shows neither token nor secret', async () => {
  const token = 'a-token-of-nobody';
  const guest = await openCall(browser, gateway.url, { name: 'Guest', room: 'call', token });
  await guest.press('#plug');
  await guest.until(() => [...document.querySelectorAll('#log li')].filter((row) => row.querySelector('.what')?.textContent === 'welcome').length === 2);
  const shown = await guest.page.evaluate(() => [...document.querySelectorAll('#log li')].map((row) => ({
    what: row.querySelector('.what')?.textContent, text: `${row.getAttribute('title')} ${row.textContent}`,
  })));
  const of = (/** @type {string} */ what) => shown.filter((row) => row.what === what).map((row) => row.text);
  assert.ok(of('hello').length >= 2);
  for (const text of of('hello')) assert.match(text, /"token":"•••"/);
  for (const text of [...of('welcome'), ...of('hello').slice(1)]) assert.match(text, /"secret":"•••"/);
  const everything = shown.map((row) => row.text).join('\n');
  assert.ok(!everything.includes(token) && !/"secret":"[^•]/.test(everything), everything);
  await guest.press('#leave');
  await guest.page.close();
  await ada.until(() => document.querySelectorAll('#people li').length === 2);
});

test('without a wish it is WebTransport, and on a phone nothing is cut off', async () => {
  const phone = await openCall(browser, gateway.url, { name: 'Phone', room: 'call', width: 360, height: 740 });
  assert.equal((await phone.status()).transport, 'webtransport');
  await phone.seesVideo();
  for (const view of ['call', 'chat', 'wire']) {
    await phone.press(`.tabs [data-view=${view}]`);
    assert.equal(await phone.page.evaluate(() => document.documentElement.scrollWidth), 360, view);
    await phone.shot(`phone-${view}`);
  }
  await phone.press('#leave');
  await ada.until(() => document.querySelectorAll('#people li').length === 2);
  await ada.reads('Phone left');
  await phone.page.close();
});

test('a gateway that is gone is named, and one that comes back is joined again', async () => {
  await gateway.stop('SIGKILL');
  for (const page of [ada, grace]) {
    await page.until(() => document.getElementById('status')?.dataset.state === 'reconnecting');
    await page.says('(Connection lost|The gateway does not answer). Reconnecting');
  }
  await ada.shot('gone');
  gateway = await startGateway({ http: new URL(gateway.url).host });
  await ada.reads('The gateway was restarted');
  await grace.reads('The gateway was restarted');
  await Promise.all([ada.seesVideo(), grace.seesVideo()]);
  await ada.say('after the restart');
  await grace.reads('after the restart');
  assert.deepEqual([...ada.errors, ...grace.errors], []);
});
