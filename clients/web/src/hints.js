/**
 * What a browser knows about the network before the connection does. Node knows nothing of
 * the kind, and then this does nothing.
 */

/**
 * - `online`, `changed`: there is a (different) network; the old connection may be dead.
 * - `offline`: there seems to be none; the connection may yet work.
 * - `estimated`: the browser thinks differently of the path; it may be another one.
 * - `shown`: the page was hidden for a while.
 * - `woken`: the machine was asleep.
 * @typedef {'online' | 'offline' | 'changed' | 'estimated' | 'shown' | 'woken'} Hint
 */

/** The clock must have jumped this far beyond a tick for the machine to have been asleep. */
const SLEPT_MS = 5_000;
const TICK_MS = 2_000;
/** A page that was hidden for less than this has missed nothing. */
const HIDDEN_MS = 10_000;

/**
 * @param {(hint: Hint) => void} tell
 * @returns {() => void} stops it
 */
export function watchHints(tell) {
  const stop = new AbortController();
  const { signal } = stop;
  const on = (/** @type {EventTarget | undefined} */ target, /** @type {string} */ type, /** @type {(event: any) => void} */ heard) =>
    target?.addEventListener?.(type, heard, { signal });

  const page = typeof window === 'undefined' ? undefined : window;
  on(page, 'online', () => tell('online'));
  on(page, 'offline', () => tell('offline'));
  const { connection } = /** @type {{connection?: EventTarget & {type?: string}}} */ (globalThis.navigator ?? {});
  let type = connection?.type;
  on(connection, 'change', () => {
    // It also changes with every new estimate of the bandwidth, which is no other network.
    const isOther = connection?.type !== type;
    type = connection?.type;
    tell(isOther ? 'changed' : 'estimated');
  });

  let hiddenAt = Infinity;
  on(page?.document, 'visibilitychange', () => {
    if (page?.document.visibilityState === 'hidden') {
      hiddenAt = Date.now();
      return;
    }
    if (Date.now() - hiddenAt > HIDDEN_MS) tell('shown');
    hiddenAt = Infinity;
  });
  // A page that was frozen to save power is told so as it goes on, in some browsers.
  on(page?.document, 'resume', () => tell('woken'));
  // The page came out of the browser's back-forward cache, where its connections were cut.
  on(page, 'pageshow', ({ persisted }) => {
    if (persisted) tell('shown');
  });

  let last = Date.now();
  const ticking = setInterval(() => {
    const now = Date.now();
    // Timers of hidden pages are late without any sleep.
    const hidden = page?.document.visibilityState === 'hidden';
    if (now - last > TICK_MS + SLEPT_MS && !hidden) tell('woken');
    last = now;
  }, TICK_MS);
  /** @type {{unref?: () => void}} */ (/** @type {unknown} */ (ticking)).unref?.();

  return () => {
    clearInterval(ticking);
    stop.abort();
  };
}
