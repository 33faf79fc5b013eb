/** What the page's own controls do to a call: another transport, a pulled plug, a narrow screen. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { chromium } from './browsers.js';
import { startGateway } from './gateway.js';
import { Member, until } from './member.js';

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

/**
 * @param {import('node:test').TestContext} t
 * @param {string} room
 * @param {Partial<Parameters<typeof Member.join>[1]>} [own] of the first of them
 */
async function two(t, room, own = {}) {
  const { url } = gateway;
  const ada = await Member.join(browser, { url, room, name: 'Ada', transport: 'webtransport', ...own });
  t.after(() => ada.close());
  const bob = await Member.join(browser, { url, room, name: 'Bob', transport: 'websocket' });
  t.after(() => bob.close());
  for (const member of [ada, bob]) {
    await until(`${member.name} to see a picture`, () => member.media(), ({ showing }) => showing === 1);
  }
  return { ada, bob };
}

/** @param {Member} member */
const spoken = async (member) => (await member.chat()).filter(({ from }) => from !== null).map(({ text }) => text);

test('the transport changes in the middle of a call', async (t) => {
  const { ada, bob } = await two(t, 'switch');
  for (const [value, shown] of [['websocket', 'WebSocket'], ['webtransport', 'WebTransport']]) {
    const before = await bob.media();
    await ada.click(`label:has([name=transport][value=${value}])`);
    await until('the transport to change', () => ada.transport(), (transport) => transport === value);
    await ada.say(`now on ${value}`);
    await until('Bob to see the new transport', () => bob.people(), (people) => people[0]?.transport === shown);
    await until('the picture to go on', () => bob.media(), (media) => media.framesDecoded > before.framesDecoded + 10);
  }
  const said = ['now on websocket', 'now on webtransport'];
  await until('Bob to read both', () => spoken(bob), (rows) => rows.length >= said.length);
  assert.deepEqual(await spoken(bob), said);
  // Nobody left or was away: the session went on.
  assert.deepEqual((await bob.chat()).filter(({ from }) => from === null).map(({ text }) => text), []);
  await ada.picture('switched');
  for (const member of [ada, bob]) assert.deepEqual(member.complaints, []);
});

test('what is written while the plug is out arrives once', async (t) => {
  const { ada, bob } = await two(t, 'plug');
  await ada.click('#plug');
  await until('Ada to notice', () => ada.text('#status-text'), (text) => /reconnect/i.test(text));
  await ada.say('written offline');
  await bob.say('written meanwhile');
  await ada.picture('unplugged');
  await until('Ada to be back', () => ada.text('#status-text'), (text) => /web/i.test(text));
  for (const member of [ada, bob]) {
    await until(`${member.name}'s chat`, () => member.chat(), (rows) => rows.filter(({ from }) => from !== null).length >= 2 && rows.every(({ pending }) => !pending));
    assert.deepEqual((await spoken(member)).sort(), ['written meanwhile', 'written offline']);
  }
  const before = await bob.media();
  await until('the picture to go on', () => bob.media(), (media) => media.framesDecoded > before.framesDecoded + 10);
  await ada.picture('plugged-in-again');
});

test('it works at phone width', async (t) => {
  const { ada, bob } = await two(t, 'phone', { width: 390, height: 780 });
  await ada.picture('phone-call');
  for (const view of ['chat', 'wire']) {
    await ada.click(`.tabs [data-view=${view}]`);
    if (view === 'chat') {
      await ada.say('from a phone');
      await until('Bob to read it', () => spoken(bob), (rows) => rows.includes('from a phone'));
    }
    const overflow = await ada.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `the ${view} view is ${overflow} px too wide`);
    await ada.picture(`phone-${view}`);
  }
  assert.deepEqual(ada.complaints, []);
});

test('it says so when the gateway is gone', async (t) => {
  const own = await startGateway();
  const member = await Member.join(browser, { url: own.url, room: 'gone', name: 'Ada', transport: 'auto' });
  t.after(() => member.close());
  assert.deepEqual(await own.stop(), []);
  const said = await until('the page to say so', () => member.text('#banner-text'), (text) => /does not answer/.test(text));
  t.diagnostic(said);
  await member.picture('gateway-gone');
});
