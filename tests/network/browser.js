/**
 * Chromium with a session of the web client in it, for the measuring program that runs this:
 * `node browser.js ADDRESS CERTIFICATE_HASH`. Says `ready` once messages flow, runs until its
 * input says `stop` and how many messages the other member has sent, and then says as one line
 * of JSON what the page saw.
 */
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const CHROMIUM = process.env.CHROMIUM_BIN ?? '/usr/bin/chromium';
/** What has not come so long after the last was sent never will. */
const PATIENCE_MS = 20_000;

// Its packages are the web client's.
const packages = createRequire(new URL('../../clients/web/package.json', import.meta.url));
const { default: puppeteer } = await import(pathToFileURL(packages.resolve('puppeteer-core')).href);

const [address, certificateHash] = process.argv.slice(2);
const browser = await puppeteer.launch({
  executablePath: CHROMIUM,
  // The page comes from the gateway, whose certificate is of its own making. WebTransport
  // trusts it by its hash.
  args: ['--no-sandbox', '--ignore-certificate-errors'],
});
try {
  const page = await browser.newPage();
  await page.goto(address);
  await page.evaluate(begin, { certificateHash });
  console.log('ready');
  const input = createInterface({ input: process.stdin });
  const [line] = await once(input, 'line');
  input.close();
  const expected = Number(line.split(' ')[1]);
  console.log(JSON.stringify(await page.evaluate(finish, { expected, patience: PATIENCE_MS })));
} finally {
  await browser.close();
}

/**
 * Runs on the page: a session, and a message every 20 ms.
 * @param {{certificateHash: string}} gateway
 */
async function begin({ certificateHash }) {
  const now = () => performance.timeOrigin + performance.now();
  /** @type {any} */
  const seen = { sent: [], came: [], hints: [], transports: [], refused: 0, reset: 0, transport: null };
  const { connect } = await import(`${location.origin}/client/index.js`);
  const client = await connect(location.origin, {
    certificateHash,
    storage: null,
    log: (/** @type {{direction: string, text: string}} */ { direction, text }) => {
      if (direction === 'note' && text.startsWith('hint: ')) seen.hints.push([text.slice(6), now()]);
    },
  });
  client.inCall = true;
  client.listen('transport', (/** @type {{transport: string}} */ { transport }) => {
    seen.transports.push([transport, now()]);
  });
  const room = await client.join('r');
  room.listen('message', (/** @type {{body: number}} */ { body }) => seen.came.push([body, now()]));
  room.listen('reset', () => seen.reset += 1);
  const sending = setInterval(() => {
    const number = seen.sent.length;
    seen.sent.push(now());
    room.send(number).catch(() => seen.refused += 1);
  }, 20);
  Object.assign(window, { trial: { client, seen, sending } });
}

/**
 * Runs on the page: the end of it, once everything has come.
 * @param {{expected: number, patience: number}} what
 */
async function finish({ expected, patience }) {
  const { client, seen, sending } = /** @type {any} */ (window).trial;
  clearInterval(sending);
  const since = performance.now();
  while (seen.came.length < expected && performance.now() - since < patience) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  // One that comes twice may come late.
  await new Promise((resolve) => setTimeout(resolve, 200));
  seen.transport = client.transport;
  return seen;
}
