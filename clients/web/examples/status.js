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
    this.action = /** @type {HTMLButtonElement} */ (byId('banner-action'));
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.counting = undefined;
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
    clearTimeout(this.timer);
    clearInterval(this.counting);
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
    this.banner.hidden = true;
  }

  /** Counts the seconds for as long as nothing gets through. */
  reconnecting() {
    const since = performance.now();
    this.say('warn', 'Connection lost. Reconnecting; nothing you write is lost.', { lasting: true });
    this.counting = setInterval(() => {
      const seconds = Math.round((performance.now() - since) / 1_000);
      this.bannerText.textContent = `Connection lost. Reconnecting for ${seconds} s; nothing you write is lost.`;
    }, 1_000);
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
