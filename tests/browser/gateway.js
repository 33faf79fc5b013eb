/** A gateway for a test file: the real binary on ports the system chose. */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const BUILT = fileURLToPath(new URL('../../target/debug/handover', import.meta.url));
const START_MS = 20_000;
const STOP_MS = 20_000;

/**
 * Browsers take `localhost` for either loopback address, so both are listened on.
 * @returns {Promise<{url: string, stop: () => Promise<string[]>}>} `stop` says what went wrong
 */
export async function startGateway() {
  const folder = await mkdtemp(join(tmpdir(), 'handover-browser-'));
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith('HANDOVER_'));
  const gateway = spawn(
    process.env.HANDOVER_BIN ?? BUILT,
    ['serve', '--listen', 'localhost:0', '--http', 'localhost:0', '--certs-dir', join(folder, 'certs'), '--log-format', 'json', '--set', 'drain_timeout_ms=1000'],
    { cwd: folder, env: Object.fromEntries(own), stdio: ['ignore', 'pipe', 'pipe'] },
  );
  /** @type {string[]} */
  const log = [];
  createInterface({ input: gateway.stderr }).on('line', (line) => log.push(line));
  /** @type {Promise<string>} */
  const ended = new Promise((resolve) => {
    gateway.on('error', (error) => resolve(error.message));
    gateway.on('exit', (code, signal) => resolve(`exit ${code ?? signal}`));
  });
  const told = createInterface({ input: gateway.stdout });
  /** @type {Promise<string>} */
  const page = new Promise((resolve) => {
    told.on('line', (line) => {
      const found = /call page\s+(\S+)/.exec(line)?.[1];
      if (found !== undefined) resolve(found);
    });
  });
  const failed = ended.then((how) => {
    throw new Error(`the gateway did not start: ${how}\n${log.join('\n')}`);
  });
  const url = await within(START_MS, 'the gateway to start', Promise.race([page, failed]));
  failed.catch(() => {});
  return {
    url,
    async stop() {
      gateway.kill('SIGTERM');
      const how = await within(STOP_MS, 'the gateway to stop', ended).catch((error) => {
        gateway.kill('SIGKILL');
        return error.message;
      });
      await rm(folder, { recursive: true, force: true });
      const wrong = log.filter((line) => JSON.parse(line).level === 'ERROR');
      return how === 'exit 0' ? wrong : [...wrong, how];
    },
  };
}

/**
 * @template T
 * @param {number} ms
 * @param {string} what
 * @param {Promise<T>} promise
 * @returns {Promise<T>}
 */
export async function within(ms, what, promise) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms for ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, /** @type {Promise<never>} */ (late)]);
  } finally {
    clearTimeout(timer);
  }
}
