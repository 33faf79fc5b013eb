/** A page with a bare client that sends and counts, for what the call page would hide. */
import assert from 'node:assert/strict';
import { CallPage, watchErrors } from './browsers.js';

/**
 * What happened on the page.
 * @typedef {object} Flow
 * @property {import('../../src/index.js').Client} client
 * @property {import('../../src/index.js').Room} room
 * @property {{lane: string, body: number}[]} got
 * @property {Promise<unknown>[]} sends
 * @property {string[]} states after the first
 * @property {{transport: string, resumed: boolean, gapMs: number}[]} moves
 * @property {string[]} notes
 * @property {string[]} resets
 * @property {ReturnType<typeof setInterval>} [timer]
 */

export class FlowPage extends CallPage {
  /**
   * @param {import('puppeteer-core').Browser} browser
   * @param {string} url
   * @param {{name: string, room: string, transport?: string}} who
   */
  static async open(browser, url, { name, room, transport = 'auto' }) {
    const page = await browser.newPage();
    const errors = watchErrors(page);
    await page.goto(url);
    await page.evaluate(async (room, transport) => {
      // Served by the gateway; the types see the same file under another name.
      const { connect } = await import(/** @type {any} */ ('/client/index.js'));
      /** @type {any} */
      const flow = { got: [], sends: [], states: [], moves: [], notes: [], resets: [] };
      flow.client = await connect(location.origin, {
        transport,
        log: (/** @type {any} */ { direction, text }) => {
          if (direction === 'note') flow.notes.push(text);
        },
      });
      flow.client.inCall = true;
      flow.client.listen('state', (/** @type {any} */ { state }) => flow.states.push(state));
      flow.client.listen('transport', (/** @type {any} */ move) => flow.moves.push(move));
      flow.room = await flow.client.join(room);
      flow.room.listen('message', (/** @type {any} */ { lane, body }) => flow.got.push({ lane, body }));
      flow.room.listen('reset', (/** @type {any} */ { reason }) => flow.resets.push(reason));
      Object.assign(window, { flow, handover: flow });
    }, room, transport);
    return new FlowPage(page, name, errors);
  }

  async account() {
    return (await this.record()).notes.join('\n');
  }

  /** Sends twenty messages a second, in turn on both lanes. */
  start() {
    return this.page.evaluate(() => {
      /** @type {Flow} */
      const flow = /** @type {any} */ (window).flow;
      flow.timer = setInterval(() => {
        const body = flow.sends.length;
        flow.sends.push(flow.room.send(body, { lane: body % 2 === 0 ? 'signal' : 'bulk' }));
      }, 50);
    });
  }

  /** Stops, waits until everything is accepted, and says how many it were. */
  stop() {
    return this.page.evaluate(async () => {
      /** @type {Flow} */
      const flow = /** @type {any} */ (window).flow;
      clearInterval(flow.timer);
      await Promise.all(flow.sends);
      return flow.sends.length;
    });
  }

  /**
   * So many more messages come.
   * @param {number} more
   */
  async hears(more) {
    const { got } = await this.record();
    await this.until((least) => /** @type {any} */ (window).flow.got.length >= least, got.length + more);
  }

  /** @returns {Promise<Pick<Flow, 'got' | 'states' | 'moves' | 'notes' | 'resets'>>} */
  record() {
    return this.page.evaluate(() => {
      const { got, states, moves, notes, resets } = /** @type {any} */ (window).flow;
      return { got, states, moves, notes, resets };
    });
  }

  /**
   * Everything that the other one sent has come, once and in order.
   * @param {number} total
   */
  async received(total) {
    await this.until((total) => /** @type {any} */ (window).flow.got.length >= total, total);
    const { got, resets } = await this.record();
    for (const [lane, rest] of /** @type {const} */ ([['signal', 0], ['bulk', 1]])) {
      const sent = Array.from({ length: total }, (_, body) => body).filter((body) => body % 2 === rest);
      assert.deepEqual(got.filter((message) => message.lane === lane).map(({ body }) => body), sent, `${this.name}, ${lane}`);
    }
    assert.deepEqual(resets, []);
  }

  /**
   * The session has moved once more since there were so many moves.
   * @param {number} before
   * @param {string} transport
   */
  async moved(before, transport) {
    await this.until((before, transport) => /** @type {any} */ (window).flow.moves.slice(before).some((/** @type {any} */ move) => move.transport === transport), before, transport);
  }

  /** The session was carried all the time. */
  async neverLost() {
    assert.deepEqual((await this.record()).states, [], await this.account());
  }

  /** Whatever it was opened with, from now on either transport will do. */
  allowAll() {
    return this.page.evaluate(() => /** @type {any} */ (window).flow.client.switchTransport('auto'));
  }

  async wentOnline() {
    const cdp = await this.page.createCDPSession();
    const state = { latency: 0, downloadThroughput: -1, uploadThroughput: -1 };
    await cdp.send('Network.overrideNetworkState', { ...state, offline: true });
    await cdp.send('Network.overrideNetworkState', { ...state, offline: false });
  }

  /** What a phone's browser says; those of desktops do not know the kind of network. */
  async networkChanged() {
    await this.page.evaluate(() => {
      const { connection } = /** @type {any} */ (navigator);
      Object.defineProperty(connection, 'type', { value: 'cellular' });
      connection.dispatchEvent(new Event('change'));
    });
  }

  /** The page stands still, as all of a laptop does whose lid is closed. */
  async sleep() {
    const cdp = await this.page.createCDPSession();
    await cdp.send('Page.setWebLifecycleState', { state: 'frozen' });
  }

  async wake() {
    const cdp = await this.page.createCDPSession();
    await cdp.send('Page.setWebLifecycleState', { state: 'active' });
    await this.page.bringToFront();
  }
}

/**
 * Two pages in one room, one whose session is about to move and one that stays, as messages
 * arrive at both.
 * @param {{stays: FlowPage, moves: FlowPage}} pages
 */
export async function flowing(pages) {
  const { stays, moves } = pages;
  await Promise.all([stays.start(), moves.start()]);
  await Promise.all([stays.hears(20), moves.hears(20)]);
  return pages;
}

/**
 * It flows on for a while; and nothing was lost, nothing came twice, all is in order, both ways.
 * @param {import('node:test').TestContext} t
 * @param {{stays: FlowPage, moves: FlowPage}} pages
 */
export async function complete(t, { stays, moves }) {
  await Promise.all([stays.hears(20), moves.hears(20)]);
  const [up, down] = await Promise.all([moves.stop(), stays.stop()]);
  await Promise.all([stays.received(up), moves.received(down)]);
  const { moves: made } = await moves.record();
  assert.ok(made.every(({ resumed }) => resumed));
  assert.deepEqual([...stays.errors, ...moves.errors], []);
  const moved = made.map(({ transport, gapMs }) => `to ${transport} after ${Math.round(gapMs)} ms`).join(', ');
  t.diagnostic(`${up} up and ${down} down, 0 lost, 0 repeated; ${moved}`);
}
