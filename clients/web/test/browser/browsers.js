/** Real browsers, as the system packages them, on the call page of a real gateway. */
import { mkdir } from 'node:fs/promises';
import puppeteer from 'puppeteer-core';

/** @typedef {import('puppeteer-core').Browser} Browser */
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
 * @param {{name: string, room: string, transport?: string, width?: number, height?: number}} who
 */
export async function openCall(browser, url, { name, room, transport = 'auto', width = 1280, height = 800 }) {
  const page = await browser.newPage();
  await page.setViewport({ width, height });
  /** @type {string[]} */
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  const query = new URLSearchParams({ name, transport, fake: '1' });
  await page.goto(`${url}/?${query}#room=${encodeURIComponent(room)}`);
  const call = new CallPage(page, name, errors);
  await call.until(() => document.body.dataset.phase === 'call');
  return call;
}

export class CallPage {
  /**
   * @param {Page} page
   * @param {string} name
   * @param {string[]} errors
   */
  constructor(page, name, errors) {
    this.page = page;
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
      const log = await this.page.$eval('body', (body) => body.innerText);
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
