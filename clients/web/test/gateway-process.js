/** A real gateway, started for a test and ended with it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';

/**
 * @typedef {object} Gateway
 * @property {string} url of the plain listener
 * @property {string} secure
 * @property {(signal: NodeJS.Signals) => void} kill
 * @property {(signal?: NodeJS.Signals) => Promise<void>} stop
 */

/**
 * @typedef {object} GatewayOptions
 * @property {string} [http] where it listens for plain HTTP
 * @property {Record<string, string>} [settings] as the environment names them
 */

/**
 * @param {GatewayOptions} [options]
 * @returns {Promise<Gateway>}
 */
export async function startGateway({ http = '127.0.0.1:0', settings = {} } = {}) {
  const binary = process.env.HANDOVER_BIN;
  if (!binary) throw new Error('HANDOVER_BIN must name the gateway to test against, for example target/debug/handover');
  // It mints its development identity where it runs.
  const folder = await mkdtemp(join(tmpdir(), 'handover-web-'));
  // Whatever else this machine does must not slow callers down.
  const args = ['serve', '--set', 'limits.wait_us=0', '--listen', '127.0.0.1:0', '--http', http, '--log', 'warn'];
  // Settings of its own from the environment would change what is tested; unknown ones end it.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('HANDOVER_')));
  Object.assign(env, settings);
  const child = spawn(resolve(binary), args, { cwd: folder, env, stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'exit');
  /** @type {string[]} */
  const lines = [];
  /** @param {RegExp} pattern */
  const find = (pattern) => lines.map((line) => pattern.exec(line)?.[1]).find((found) => found !== undefined);
  let plain;
  let secure;
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line);
    plain = find(/plain HTTP\s+(\S+)/);
    secure = find(/QUIC and TLS\s+(\S+)/);
    if (plain !== undefined && secure !== undefined) break;
  }
  if (plain === undefined || secure === undefined) throw new Error(`the gateway did not start:\n${lines.join('\n')}`);
  child.stdout.resume();
  return {
    url: `http://${plain}`,
    secure: `https://${secure}`,
    kill: (signal) => void child.kill(signal),
    async stop(signal = 'SIGTERM') {
      child.kill(signal);
      await ended;
      await rm(folder, { recursive: true, force: true });
    },
  };
}
