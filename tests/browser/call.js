/** A call of two, step by step, as every pair of browsers and transports has to hold it. */
import assert from 'node:assert/strict';
import { Member, until } from './member.js';

const SHOWN = { webtransport: 'WebTransport', websocket: 'WebSocket' };

/**
 * @param {import('node:test').TestContext} t
 * @param {{url: string, title: string, one: Side, other: Side}} call
 * @typedef {{browser: import('puppeteer-core').Browser, transport: 'webtransport' | 'websocket'}} Side
 */
export async function call(t, { url, title, one, other }) {
  const room = `${title} ${process.pid}`;
  const ada = await Member.join(one.browser, { url, room, name: 'Ada', transport: one.transport });
  t.after(() => ada.close());
  const bob = await Member.join(other.browser, { url, room, name: 'Bob', transport: other.transport });
  t.after(() => bob.close());
  const both = [ada, bob];

  await t.test('each is on its own transport and sees the other’s', async () => {
    assert.equal(await ada.transport(), one.transport);
    assert.equal(await bob.transport(), other.transport);
    const expected = [
      { name: 'Ada', transport: SHOWN[one.transport] },
      { name: 'Bob', transport: SHOWN[other.transport] },
    ];
    for (const member of both) {
      await until(`${member.name}'s list`, () => member.people(), (people) => equal(people, expected));
    }
  });

  await t.test('pictures and sound flow both ways', async () => {
    for (const member of both) {
      const first = await until(`${member.name} to see and hear`, () => member.media(), (media) => media.framesDecoded > 0 && media.audioBytes > 0 && media.showing === 1);
      const later = await until(`${member.name} to go on seeing and hearing`, () => member.media(), (media) => media.framesDecoded > first.framesDecoded + 10 && media.audioBytes > first.audioBytes);
      t.diagnostic(`${member.name} on ${await member.transport()}: framesDecoded ${first.framesDecoded} -> ${later.framesDecoded}, audio bytes ${first.audioBytes} -> ${later.audioBytes}`);
    }
  });

  await t.test('chat goes both ways, once and in order', async () => {
    await ada.say('good morning');
    await until('Bob to read it', () => bob.chat(), (rows) => rows.some(({ text }) => text === 'good morning'));
    await bob.say('and to you: <b>é</b> 😀');
    await ada.say('bye then');
    const said = [
      ['Ada', 'good morning'],
      ['Bob', 'and to you: <b>é</b> 😀'],
      ['Ada', 'bye then'],
    ];
    for (const member of both) {
      const rows = await until(`${member.name}'s chat`, () => member.chat(), (all) => {
        const spoken = all.filter(({ from }) => from !== null);
        return spoken.length >= said.length && spoken.every(({ pending }) => !pending);
      });
      const spoken = rows.filter(({ from }) => from !== null);
      const names = said.map(([name, text]) => [name === member.name ? 'You' : name, text]);
      // The second and the third were on their way at once: either may be first.
      const order = (/** @type {any[][]} */ list) => [list[0], ...list.slice(1).sort()];
      assert.deepEqual(order(spoken.map(({ from, text }) => [from, text])), order(names));
    }
  });

  await t.test('pointers go both ways', async () => {
    for (const [from, to] of [[ada, bob], [bob, ada]]) {
      let step = 0;
      const look = async () => {
        await from.point(to.name, (step += 1));
        return to.pointers();
      };
      await until(`${to.name} to see ${from.name}'s pointer`, look, (seen) => equal(seen, [{ name: from.name, on: `${to.name} (you)` }]));
    }
  });

  await t.test('reactions go both ways', async () => {
    for (const [from, to] of [[ada, bob], [bob, ada]]) {
      const look = async () => {
        await from.click('[data-reaction=heart]');
        return to.reactions();
      };
      await until(`${to.name} to see a reaction`, look, (count) => count > 0);
    }
  });

  await t.test('both pages look right', async () => {
    for (const member of both) await member.picture(`${title}-${member.name.toLowerCase()}`);
  });

  await t.test('one leaves and the other sees it', async () => {
    await bob.click('#leave');
    await until('Bob to be back in the lobby', () => bob.phase(), ({ phase }) => phase === 'lobby');
    await until('Ada to be alone', () => ada.tiles(), (tiles) => equal(tiles, ['Ada (you)']));
    const rows = await ada.chat();
    assert.equal(rows.at(-1)?.text, 'Bob left');
    assert.equal((await ada.people()).length, 1);
    await ada.picture(`${title}-alone`);
  });

  await t.test('neither page complained', () => {
    for (const member of both) assert.deepEqual(member.complaints, []);
  });
}

/**
 * @param {unknown} a
 * @param {unknown} b
 */
function equal(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}
