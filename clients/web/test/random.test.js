/** Whatever happens to the connections: once each, in order, and nothing unanswered. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { randomFrom } from './model/gateway.js';
import { World } from './model/world.js';

const SEEDS = Number(process.env.HANDOVER_SEEDS ?? 150);
const ROOMS = ['a', 'b'];
const LANES = /** @type {const} */ (['signal', 'bulk']);

/**
 * @param {number} seed
 * @param {{refusals?: boolean, restarts?: boolean, trims?: boolean}} what
 */
function run(seed, { refusals = false, restarts = false, trims = false }) {
  const random = randomFrom(seed);
  const refuse = () => {
    const draw = random();
    if (!refusals || draw > 0.2) return undefined;
    return draw < 0.1 ? { code: 'no_such_peer' } : { code: 'unavailable', retry_after: 50 };
  };
  const world = new World(random, refuse);
  const peers = [world.peer(), world.peer(), world.peer()];
  world.settle();
  for (const peer of peers) for (const room of ROOMS) peer.session.join(room, undefined);
  for (const peer of peers) peer.write();
  world.settle();

  /** @type {Map<string, {peer: number, id: number}>} by body */
  const sent = new Map();
  for (let step = 0; step < 400; step += 1) {
    const index = Math.floor(random() * peers.length);
    const peer = /** @type {import('./model/world.js').Peer} */ (peers[index]);
    const draw = random();
    if (draw < 0.2) {
      const room = ROOMS[Math.floor(random() * ROOMS.length)] ?? '';
      const lane = random() < 0.5 ? 'signal' : 'bulk';
      const body = `${index} ${room} ${lane} ${step}`;
      sent.set(body, { peer: index, id: peer.session.send(room, lane, JSON.stringify(body)) });
      peer.write();
    } else if (draw < 0.24) {
      const link = world.pick([...peer.links.keys()]);
      if (link !== undefined) peer.cut(link);
    } else if (draw < 0.3 || peer.links.size === 0) peer.dial();
    else if (draw < 0.32) world.wait(60);
    else if (restarts && draw < 0.323) world.restart();
    else if (trims && draw < 0.325) world.gateway.trim(world.pick(ROOMS) ?? '');
    else peer.step();
  }
  world.settle();

  for (const [index, peer] of peers.entries()) {
    assert.ok(!peer.session.ended, `peer ${index} ended`);
    const results = peer.results();
    for (const [body, { peer: sender, id }] of sent) {
      if (sender === index) assert.ok(results.has(id), `${body} was never answered`);
    }
    for (const room of ROOMS) {
      for (const lane of LANES) check(peer, index, room, lane, sent, peers, { restarts, trims });
    }
  }
}

/**
 * @param {import('./model/world.js').Peer} peer
 * @param {number} index
 * @param {string} room
 * @param {string} lane
 * @param {Map<string, {peer: number, id: number}>} sent
 * @param {import('./model/world.js').Peer[]} peers
 * @param {{restarts: boolean, trims: boolean}} what
 */
function check(peer, index, room, lane, sent, peers, { restarts, trims }) {
  const got = peer.messages(room).filter((event) => event.lane === lane).map((event) => event.body);
  assert.equal(new Set(got).size, got.length, `twice: ${got}`);
  for (const sender of peers.keys()) {
    const step = (/** @type {string} */ body) => Number(body.split(' ')[3]);
    const from = got.filter((body) => body.startsWith(`${sender} `));
    assert.deepEqual(from, [...from].sort((a, b) => step(a) - step(b)), 'out of order');
    const results = /** @type {import('./model/world.js').Peer} */ (peers[sender]).results();
    const ours = [...sent].filter(([body]) => body.startsWith(`${sender} ${room} ${lane} `));
    for (const body of from) {
      const result = results.get(sent.get(body)?.id ?? 0);
      assert.ok(result === 'accepted' || (restarts && result === 'uncertain'), `${body} arrived but was ${result}`);
    }
    // Only a reset, which is announced, may leave something out.
    if (sender === index || ((restarts || trims) && peer.resets(room).length > 0)) continue;
    const accepted = ours.filter(([, { id }]) => results.get(id) === 'accepted').map(([body]) => body);
    if (!restarts) assert.deepEqual(from, accepted, 'lost');
  }
}

for (const [name, what] of Object.entries({
  'links break': {},
  'links break and sends are refused': { refusals: true },
  'links break and logs are trimmed': { trims: true, refusals: true },
  'links break and the gateway forgets everything': { restarts: true, refusals: true, trims: true },
})) {
  test(`${name}: ${SEEDS} seeds`, () => {
    for (let seed = 1; seed <= SEEDS; seed += 1) {
      try {
        run(seed, what);
      } catch (error) {
        throw new Error(`seed ${seed}: ${error instanceof Error ? error.message : error}`, { cause: error });
      }
    }
  });
}
