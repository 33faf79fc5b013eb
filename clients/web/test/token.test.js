/** Tokens against a real gateway: shown, renewed before they end, and fetched for every dial. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { WebSocket } from 'ws';
import { connect } from '../src/index.js';
import { startGateway } from './gateway-process.js';

/** @type {import('./gateway-process.js').Gateway} */
let gateway;
/** @type {string} */
let folder;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'handover-token-'));
  await writeFile(join(folder, 'secret'), 'a secret of tests, and of nobody else\n', { mode: 0o600 });
  const settings = { HANDOVER_AUTH_SECRET_FILE: join(folder, 'secret'), HANDOVER_AUTH_LEEWAY_S: '0' };
  gateway = await startGateway({ settings });
});
after(async () => {
  await gateway?.stop();
  await rm(folder, { recursive: true, force: true });
});

/** @param {string} ttl @param {string[]} more */
async function mint(ttl, ...more) {
  const binary = resolve(process.env.HANDOVER_BIN ?? '');
  const args = ['token', '--secret-file', join(folder, 'secret'), '--user', 'ann', '--ttl', ttl, ...more];
  const { stdout } = await promisify(execFile)(binary, args, { env: {} });
  return stdout.trim();
}

test('a token lets in, says who one is, and what one may do', async () => {
  const client = await connect(gateway.url, { WebSocket, token: await mint('1h', '--room', 'lecture', '--can', 'join') });
  assert.equal(client.user, 'ann');
  const room = await client.join('lecture');
  await assert.rejects(room.send('no'), { code: 'forbidden' });
  await assert.rejects(client.join('elsewhere'), { code: 'forbidden' });
  await client.refresh(await mint('1h'));
  await room.send('yes');
  await client.close();
});

test('without a token, or with one made up, there is no session', async () => {
  for (const token of [undefined, 'made up']) {
    await assert.rejects(connect(gateway.url, { WebSocket, token }), { code: 'unauthorized' });
  }
});

test('who can ask for tokens stays past their end, also if one cannot be had at first', async () => {
  let asked = 0;
  const client = await connect(gateway.url, {
    WebSocket,
    token: async () => {
      asked += 1;
      if (asked === 2) throw new Error('the issuer is not there');
      return mint(asked === 1 ? '4s' : '1h');
    },
  });
  const room = await client.join('long');
  /** @type {string[]} */
  const states = [];
  client.addEventListener('state', (event) => states.push(/** @type {CustomEvent} */ (event).detail.state));
  await once(client, 'expiring');
  const over = Date.now() + 3_000;
  while (Date.now() < over) await client.iceServers();
  await room.send('still here');
  assert.deepEqual([asked, states], [3, []]);
  await client.close();
});

test('a session whose token has ended comes back with a fresh one', async () => {
  let asked = 0;
  const client = await connect(gateway.url, {
    WebSocket,
    token: async () => {
      asked += 1;
      // Whoever is asked for a newer one never answers; the next connection gets its own.
      if (asked === 2) return new Promise(() => {});
      return mint(asked === 1 ? '2s' : '1h');
    },
  });
  const room = await client.join('back');
  await once(client, 'state');
  assert.equal(client.state, 'reconnecting');
  const [{ detail }] = await once(client, 'state');
  assert.deepEqual([detail.state, detail.resumed], ['connected', true]);
  await room.send('still here');
  assert.equal(asked, 3);
  await client.close();
});
