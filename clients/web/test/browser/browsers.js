/** Real browsers, as the system packages them, on the call page of a real gateway. */
import { mkdir } from 'node:fs/promises';
import puppeteer from 'puppeteer-core';

/** @typedef {import('puppeteer-core').Browser} Browser */
/** @typedef {import('puppeteer-core').CDPSession} CDPSession */
/** @typedef {import('puppeteer-core').Page} Page */

const CHROMIUM = process.env.CHROMIUM_BIN ?? '/usr/bin/chromium';
const FIREFOX = process.env.FIREFOX_BIN ?? '/usr/bin/firefox-esr';
const OUT = new URL('./out/', import.meta.url);
/** Long enough for a busy machine; every wait ends as soon as it can. */
const DEADLINE_MS = 30_000;

export function launchChromium() {
  return puppeteer.launch({
    executablePath: CHROMIUM,
    // The mesh runs on this machine alone, where names for hidden addresses do not resolve.
    args: ['--no-sandbox', '--autoplay-policy=no-user-gesture-required', '--disable-features=WebRtcHideLocalIpsWithMdns'],
  });
}

export function launchFirefox() {
  return puppeteer.launch({
    browser: 'firefox',
    executablePath: FIREFOX,
    extraPrefsFirefox: {
      'media.autoplay.default': 0,
      'media.peerconnection.ice.loopback': true,
      'media.peerconnection.ice.obfuscate_host_addresses': false,
    },
  });
}

/**
 * Opens the call page and joins.
 * @param {Browser} browser
 * @param {string} url
 * @param {{name: string, room: string, transport?: string, width?: number, height?: number, losable?: boolean, token?: string}} who
 *   `losable`: {@link CallPage.loseNetwork} will be called
 */
export async function openCall(browser, url, { name, room, transport = 'auto', width = 1280, height = 800, losable = false, token = undefined }) {
  const page = await browser.newPage();
  await page.setViewport({ width, height });
  const errors = watchErrors(page);
  const cdp = losable ? await page.createCDPSession() : undefined;
  // What its media go through is decided when their sockets are made.
  if (cdp) await emulate(cdp, false);
  const query = new URLSearchParams({ name, transport, fake: '1' });
  const hash = new URLSearchParams({ room, ...(token === undefined ? {} : { token }) });
  await page.goto(`${url}/?${query}#${hash}`);
  // What the page says stays for a few seconds only, and a test may look later than that.
  await page.evaluate(() => {
    const banner = /** @type {HTMLElement} */ (document.getElementById('banner'));
    /** @type {string[]} */
    const said = [];
    const look = () => {
      if (!banner.hidden) said.push(banner.innerText);
    };
    new MutationObserver(look).observe(banner, { subtree: true, childList: true, characterData: true, attributes: true });
    look();
    Object.assign(window, { said });
  });
  const call = new CallPage(page, name, errors, cdp);
  await call.until(() => document.body.dataset.phase === 'call');
  return call;
}

/**
 * Everything that a clean page does not have: uncaught errors and lines in the console, except
 * about connections that failed, which browsers write by themselves and this is all about.
 * @param {Page} page
 */
export function watchErrors(page) {
  /** @type {string[]} */
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (line) => {
    const isComplaint = ['error', 'warn'].includes(line.type());
    if (isComplaint && !/WebSocket|WebTransport|net::ERR_|can.t establish a connection|was interrupted/.test(line.text())) errors.push(line.text());
  });
  return errors;
}

/**
 * @param {CDPSession} cdp
 * @param {boolean} offline
 */
function emulate(cdp, offline) {
  // Only what limits something at first can be changed for media that flow already.
  return cdp.send('Network.emulateNetworkConditions', { offline, latency: 1, downloadThroughput: -1, uploadThroughput: -1 });
}

export class CallPage {
  /**
   * @param {Page} page
   * @param {string} name
   * @param {string[]} errors
   * @param {CDPSession} [cdp] where the browser has one
   */
  constructor(page, name, errors, cdp) {
    this.page = page;
    this.cdp = cdp;
    this.name = name;
    this.errors = errors;
  }

  /**
   * Waits until it holds on the page.
   * @param {(...args: any[]) => unknown} holds runs on the page
   * @param {...unknown} args
   */
  async until(holds, ...args) {
    try {
      await this.page.waitForFunction(holds, { timeout: DEADLINE_MS, polling: 100 }, ...args);
    } catch (cause) {
      await this.shot('failed');
      const log = await this.account();
      throw new Error(`${this.name} waited in vain for ${holds}\n${this.errors.join('\n')}\n${log}`, { cause });
    }
  }

  /** Pictures of somebody else are being decoded, now, and their sound is coming in. */
  async seesVideo() {
    await this.page.evaluate(() => {
      /** @type {any} */ (window).mediaBefore = undefined;
    });
    await this.until(async () => {
      const page = /** @type {any} */ (window);
      const [connection] = page.handover.peers.values();
      if (connection?.connectionState !== 'connected') return false;
      const now = { frames: 0, sound: 0 };
      for (const report of (await connection.getStats()).values()) {
        if (report.type !== 'inbound-rtp') continue;
        if (report.kind === 'video') now.frames = report.framesDecoded ?? 0;
        else now.sound = report.bytesReceived ?? 0;
      }
      page.mediaBefore ??= now;
      return now.frames > page.mediaBefore.frames + 5 && now.sound > page.mediaBefore.sound;
    });
  }

  /** What the page has to say about a failure. */
  account() {
    return this.page.$eval('body', (body) => body.innerText);
  }

  /** No picture that it has not seen yet comes in any more. */
  async seesNothingNew() {
    await this.page.evaluate(() => {
      /** @type {any} */ (window).lastPicture = { frames: -1, at: 0 };
    });
    await this.until(async () => {
      const page = /** @type {any} */ (window);
      const [connection] = page.handover.peers.values();
      const reports = [...(await connection.getStats()).values()];
      const { framesDecoded = 0 } = reports.find(({ type, kind }) => type === 'inbound-rtp' && kind === 'video') ?? {};
      if (framesDecoded !== page.lastPicture.frames) page.lastPicture = { frames: framesDecoded, at: performance.now() };
      return performance.now() - page.lastPicture.at > 1_000;
    });
  }

  /** How many connections the session has had. */
  connections() {
    return this.page.$$eval('#log .what', (rows) => rows.filter((row) => /^connection \d+ open/.test(row.textContent ?? '')).length);
  }

  /**
   * Takes the network away from the page's media and fetches, and says so; or brings it back.
   * @param {boolean} offline
   */
  async loseNetwork(offline) {
    if (this.cdp === undefined) throw new Error(`${this.name} was not opened as losable`);
    await emulate(this.cdp, offline);
  }

  /** What tells one life of the media's path from the next: both ends' ICE user fragments. */
  iceLife() {
    return this.page.evaluate(() => {
      const [connection] = /** @type {any} */ (window).handover.peers.values();
      const fragment = (/** @type {RTCSessionDescription | null} */ description) => /a=ice-ufrag:(\S+)/.exec(description?.sdp ?? '')?.[1];
      return `${fragment(connection.localDescription)} ${fragment(connection.remoteDescription)}`;
    });
  }

  /** @param {string} before an earlier {@link CallPage.iceLife} */
  async iceRestarted(before) {
    await this.until((before) => {
      const [connection] = /** @type {any} */ (window).handover.peers.values();
      const fragment = (/** @type {RTCSessionDescription | null} */ description) => /a=ice-ufrag:(\S+)/.exec(description?.sdp ?? '')?.[1];
      const [local, remote] = [fragment(connection.localDescription), fragment(connection.remoteDescription)];
      return connection.signalingState === 'stable' && !before.split(' ').includes(local ?? '') && !before.split(' ').includes(remote ?? '');
    }, before);
  }

  /**
   * Moves the mouse over a member's picture until that member's page shows it there: datagrams
   * may be lost.
   * @param {CallPage} other
   */
  async pointsAt(other) {
    await this.page.bringToFront();
    const { x, y } = await this.page.evaluate((name) => {
      const tiles = [...document.querySelectorAll('.tile')];
      const box = tiles.find((tile) => tile.querySelector('.label')?.textContent === name)?.getBoundingClientRect();
      return { x: (box?.x ?? 0) + (box?.width ?? 0) / 3, y: (box?.y ?? 0) + (box?.height ?? 0) / 3 };
    }, other.name);
    const moving = setInterval(() => void this.page.mouse.move(x + Math.random() * 20, y).catch(() => {}), 100);
    try {
      await other.until((name) => document.querySelector('.tile.self .pointer')?.textContent === name, this.name);
    } finally {
      clearInterval(moving);
    }
  }

  /** @param {string} text */
  async say(text) {
    await this.page.$eval('#chat-input', (input, text) => {
      /** @type {HTMLInputElement} */ (input).value = text;
      /** @type {HTMLInputElement} */ (input).form?.requestSubmit();
    }, text);
  }

  /**
   * The banner says something that begins like this, or has said so since it was last asked.
   * @param {string} pattern of a regular expression
   * @returns {Promise<string>} what exactly
   */
  async says(pattern) {
    const find = (/** @type {string} */ pattern) => /** @type {any} */ (window).said.findIndex((/** @type {string} */ text) => new RegExp(`^${pattern}`).test(text)) + 1;
    await this.until(find, pattern);
    const index = await this.page.evaluate(find, pattern);
    return this.page.evaluate((index) => /** @type {any} */ (window).said.splice(0, index).at(-1), index);
  }

  /** @param {string} text */
  async reads(text) {
    await this.until((text) => document.getElementById('messages')?.innerText.includes(text), text);
  }

  /**
   * How often a text stands in the chat.
   * @param {string} text
   */
  count(text) {
    return this.page.$$eval('#messages .text', (rows, text) => rows.filter((row) => row.textContent === text).length, text);
  }

  /** @returns {Promise<{state: string, transport: string | null, peer: string}>} */
  status() {
    return this.page.evaluate(() => {
      const { client } = /** @type {any} */ (window).handover;
      return { state: client.state, transport: client.transport, peer: client.peer };
    });
  }

  /** Whether a dead connection would be noticed within three seconds. */
  isInCall() {
    return this.page.evaluate(() => /** @type {any} */ (window).handover.client.inCall);
  }

  /** @param {string} transport */
  async isOn(transport) {
    await this.until((transport) => {
      const { client } = /** @type {any} */ (window).handover;
      return client.state === 'connected' && client.transport === transport;
    }, transport);
  }

  /** @param {string} selector */
  press(selector) {
    return this.page.$eval(selector, (element) => /** @type {HTMLElement} */ (element).click());
  }

  /** @param {string} name */
  async shot(name) {
    await mkdir(OUT, { recursive: true });
    const path = new URL(`${name}-${this.name}.png`, OUT).pathname;
    await this.page.screenshot({ path: /** @type {`${string}.png`} */ (path) });
  }
}
