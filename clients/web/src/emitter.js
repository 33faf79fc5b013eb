/**
 * Events with a payload: a plain `EventTarget` whose events carry it as `detail`, and a
 * shorter way to listen.
 * @template {Record<string, any>} Events
 */
export class Emitter extends EventTarget {
  /** @type {Set<string>} what anybody ever listened to */
  #heard = new Set();

  /**
   * @param {string} type
   * @param {Parameters<EventTarget['addEventListener']>[1]} listener
   * @param {Parameters<EventTarget['addEventListener']>[2]} [options]
   */
  addEventListener(type, listener, options) {
    this.#heard.add(type);
    super.addEventListener(type, listener, options);
  }

  /**
   * Whether it is worth making such events.
   * @param {keyof Events & string} type
   */
  isHeard(type) {
    return this.#heard.has(type);
  }

  /**
   * Calls `heard` with the payload of every such event.
   * @template {keyof Events & string} Type
   * @param {Type} type
   * @param {(detail: Events[Type]) => void} heard
   * @param {{signal?: AbortSignal, once?: boolean}} [options]
   * @returns {() => void} stops it
   */
  listen(type, heard, options) {
    const listener = (/** @type {Event} */ event) => heard(/** @type {CustomEvent} */ (event).detail);
    this.addEventListener(type, listener, options);
    return () => this.removeEventListener(type, listener);
  }

  /**
   * @template {keyof Events & string} Type
   * @param {Type} type
   * @param {Events[Type]} detail
   */
  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
