/** One call page, as somebody in front of it would use it. */
import { mkdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { within } from './gateway.js';

/**
 * @typedef {import('puppeteer-core').Browser} Browser
 * @typedef {import('puppeteer-core').Page} Page
 */

const DEADLINE_MS = 30_000;
const LOOK_EVERY_MS = 100;
const OUT = fileURLToPath(new URL('./out/', import.meta.url));

/**
 * Looks until what it finds is good; fails with what it saw last.
 * @template T
 * @param {string} what
 * @param {() => Promise<T>} look
 * @param {(seen: T) => boolean} good
 */
export async function until(what, look, good) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const seen = await look();
    if (good(seen)) return seen;
    if (Date.now() > end) throw new Error(`waited ${DEADLINE_MS} ms for ${what}; saw ${JSON.stringify(seen)}`);
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
  }
}

export class Member {
  /**
   * @param {Page} page
   * @param {string} name
   */
  constructor(page, name) {
    this.page = page;
    this.name = name;
    /** @type {string[]} what the page complained about */
    this.complaints = [];
    page.on('pageerror', (error) => this.complaints.push(String(error)));
    page.on('console', (message) => {
      if (message.type() === 'error') this.complaints.push(message.text());
    });
  }

  /**
   * @param {Browser} browser
   * @param {{url: string, name: string, room: string, transport: string, width?: number, height?: number}} how
   */
  static async join(browser, { url, name, room, transport, width = 1280, height = 860 }) {
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    await page.setViewport({ width, height });
    const member = new Member(page, name);
    const query = new URLSearchParams({ transport, fake: '1' });
    await page.goto(`${url}?${query}#room=${encodeURIComponent(room)}`);
    await page.type('#name', name);
    await page.click('#join');
    await until(`${name} to be in the call`, () => member.phase(), ({ phase, error }) => {
      if (error !== '') throw new Error(`${name} could not join: ${error}`);
      return phase === 'call';
    });
    return member;
  }

  phase() {
    return this.page.evaluate(() => ({
      phase: document.body.dataset.phase,
      error: document.getElementById('lobby-error')?.textContent ?? '',
    }));
  }

  transport() {
    return this.page.evaluate(() => window.handover.client?.transport);
  }

  /** What the page shows of everybody: name and transport. */
  people() {
    return this.page.evaluate(() =>
      [...document.querySelectorAll('#people li')].map((row) => ({
        name: row.querySelector('.name')?.firstChild?.textContent,
        transport: row.querySelector('.tag')?.textContent,
      })),
    );
  }

  /** Pictures decoded and bytes of sound received, over all peers, and the pictures on show. */
  media() {
    return this.page.evaluate(async () => {
      const sums = { framesDecoded: 0, audioBytes: 0, showing: 0 };
      for (const connection of window.handover.peers.values()) {
        for (const report of (await connection.getStats()).values()) {
          if (report.type !== 'inbound-rtp') continue;
          if (report.kind === 'video') sums.framesDecoded += report.framesDecoded ?? 0;
          else sums.audioBytes += report.bytesReceived ?? 0;
        }
      }
      const videos = document.querySelectorAll('.tile:not(.self) video');
      sums.showing = [...videos].filter((video) => video.videoWidth > 0 && video.currentTime > 0).length;
      return sums;
    });
  }

  /** @param {string} text */
  async say(text) {
    await this.page.type('#chat-input', text);
    await this.page.keyboard.press('Enter');
  }

  /** Everything in the chat, the newest last. */
  chat() {
    return this.page.evaluate(() =>
      [...document.querySelectorAll('#messages li')].map((row) => ({
        from: row.querySelector('.from')?.textContent ?? null,
        text: row.querySelector('.text')?.textContent ?? row.textContent,
        pending: row.classList.contains('pending') || row.classList.contains('failed'),
      })),
    );
  }

  /**
   * Moves the mouse over the picture of somebody.
   * @param {string} label the name on the tile
   * @param {number} step so that it does not stand still
   */
  async point(label, step) {
    const box = await this.page.evaluate((wanted) => {
      const tiles = [...document.querySelectorAll('.tile')];
      const tile = tiles.find((one) => one.querySelector('.label')?.textContent === wanted);
      const { x = 0, y = 0, width = 0, height = 0 } = tile?.getBoundingClientRect() ?? {};
      return { x, y, width, height };
    }, label);
    const share = 0.3 + (step % 5) / 10;
    await this.page.mouse.move(box.x + box.width * share, box.y + box.height * 0.4);
  }

  /** The pointers of others: whose, and on whose picture. */
  pointers() {
    return this.page.evaluate(() =>
      [...document.querySelectorAll('.pointer')].map((pointer) => ({
        name: pointer.textContent,
        on: pointer.closest('.tile')?.querySelector('.label')?.textContent,
      })),
    );
  }

  reactions() {
    return this.page.evaluate(() => document.querySelectorAll('.reaction').length);
  }

  tiles() {
    return this.page.evaluate(() =>
      [...document.querySelectorAll('.tile .label')].map((label) => label.textContent),
    );
  }

  /** @param {string} selector */
  text(selector) {
    return this.page.$eval(selector, (element) => element.textContent ?? '');
  }

  /** @param {string} selector */
  click(selector) {
    return this.page.click(selector);
  }

  /** @param {string} name of the file */
  async picture(name) {
    await mkdir(OUT, { recursive: true });
    await within(DEADLINE_MS, 'a screenshot', this.page.screenshot({ path: `${OUT}${name}.png` }));
  }

  async close() {
    await this.page.browserContext().close();
  }
}
