/** Where the connection stands: the pill at the top and the banner under it. */
import { byId, duration, transportName } from './dom.js';

/** How long good news stay. */
const NEWS_MS = 6_000;

export class Status {
  constructor() {
    this.pill = byId('status');
    this.pillText = byId('status-text');
    this.banner = byId('banner');
    this.bannerText = byId('banner-text');
    /** What changes every second, and would be read aloud every second too. */
    this.bannerCount = byId('banner-count');
    this.action = /** @type {HTMLButtonElement} */ (byId('banner-action'));
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.counting = undefined;
    this.since = 0;
    this.nextTry = 0;
    addEventListener('online', () => this.nameLoss());
    addEventListener('offline', () => this.nameLoss());
  }

  /**
   * @param {string} state
   * @param {string | null} transport
   * @param {number | null} rtt
   */
  show(state, transport, rtt) {
    this.pill.dataset.state = state;
    const names = { connecting: 'Connecting', connected: transportName(transport), reconnecting: 'Reconnecting', closed: 'Ended' };
    const text = names[/** @type {keyof typeof names} */ (state)] ?? state;
    this.pillText.textContent = state === 'connected' && rtt !== null ? `${text} · ${duration(rtt)}` : text;
  }

  /**
   * @param {'good' | 'warn' | 'bad'} tone
   * @param {string} text
   * @param {{lasting?: boolean, action?: {label: string, run: () => void}}} [how]
   */
  say(tone, text, { lasting = false, action } = {}) {
    this.quiet();
    this.banner.hidden = false;
    this.banner.dataset.tone = tone;
    this.bannerText.textContent = text;
    this.action.hidden = action === undefined;
    if (action !== undefined) {
      this.action.textContent = action.label;
      this.action.onclick = action.run;
    }
    if (!lasting) this.timer = setTimeout(() => this.quiet(), NEWS_MS);
  }

  quiet() {
    clearTimeout(this.timer);
    clearInterval(this.counting);
    this.counting = undefined;
    this.bannerCount.textContent = '';
    this.banner.hidden = true;
  }

  /** Counts the seconds for as long as nothing gets through. */
  reconnecting() {
    this.say('warn', '', { lasting: true });
    this.since = performance.now();
    this.nextTry = 0;
    this.counting = setInterval(() => this.count(), 500);
    this.nameLoss();
    this.count();
  }

  /**
   * A try has failed.
   * @param {number} inMs until the next one
   */
  retrying(inMs) {
    this.nextTry = performance.now() + inMs;
    this.nameLoss();
  }

  nameLoss() {
    if (this.counting === undefined) return;
    const lost = this.nextTry > 0 ? 'The gateway does not answer' : 'Connection lost';
    const text = `${navigator.onLine ? lost : 'No network'}. Reconnecting; nothing you write is lost.`;
    if (this.bannerText.textContent !== text) this.bannerText.textContent = text;
  }

  count() {
    const now = performance.now();
    const down = Math.round((now - this.since) / 1_000);
    const next = Math.ceil((this.nextTry - now) / 1_000);
    this.bannerCount.textContent = `${down} s${next >= 2 ? `, next try in ${next} s` : ''}`;
  }

  /**
   * @param {{resumed: boolean, gapMs: number, transport: string | null}} back
   */
  back({ resumed, gapMs, transport }) {
    const over = `Back on ${transportName(transport)} after ${duration(gapMs)}`;
    if (resumed) this.say('good', `${over}. The session went on; nothing was lost.`);
    else this.say('warn', `${over}. The gateway had forgotten the session, so the room was joined anew.`);
  }
}
