/** The tiles with everybody's picture, and the pointers and reactions above them. */
import { make } from './dom.js';
import { icon } from './icons.js';

/** A pointer that has not moved for so long is gone. */
const POINTER_MS = 2_500;
const REACTION_MS = 2_400;

/**
 * @typedef {object} Tile
 * @property {HTMLElement} element
 * @property {HTMLVideoElement} video
 * @property {HTMLElement} label
 * @property {HTMLElement} cover what stands above a picture that is not there
 */

export class Stage {
  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
    /** @type {Map<string, Tile>} */
    this.tiles = new Map();
    /** @type {Map<string, {element: HTMLElement, timer: ReturnType<typeof setTimeout>}>} */
    this.pointers = new Map();
  }

  /**
   * @param {string} peer
   * @param {{name: string, self?: boolean}} who
   * @returns {Tile}
   */
  tile(peer, { name, self = false }) {
    let tile = this.tiles.get(peer);
    if (tile === undefined) {
      const video = make('video');
      video.autoplay = true;
      video.playsInline = true;
      video.muted = self;
      const label = make('span', { className: 'label' });
      const cover = make('span', { className: 'cover', text: self ? '' : 'Connecting' });
      const element = make('div', { className: self ? 'tile self' : 'tile' }, [video, cover, label]);
      element.dataset.peer = peer;
      tile = { element, video, label, cover };
      this.tiles.set(peer, tile);
      this.element.append(element);
    }
    tile.label.textContent = self ? `${name} (you)` : name;
    tile.video.setAttribute('aria-label', `Picture of ${name}`);
    this.count();
    return tile;
  }

  /**
   * One's own tile, under the name that the session has now.
   * @param {string} from
   * @param {string} to
   */
  rename(from, to) {
    const tile = this.tiles.get(from);
    if (tile === undefined || from === to) return;
    this.tiles.delete(from);
    this.tiles.set(to, tile);
    tile.element.dataset.peer = to;
  }

  /**
   * @param {string} peer
   * @param {MediaStream} stream
   */
  async show(peer, stream) {
    const tile = this.tiles.get(peer);
    if (tile === undefined || tile.video.srcObject === stream) return;
    tile.video.srcObject = stream;
    try {
      await tile.video.play();
    } catch (error) {
      if (!(error instanceof DOMException) || error.name !== 'NotAllowedError') return;
      // Some browsers play no sound before the page has been touched.
      const button = make('button', { className: 'unmute', text: 'Play' });
      button.addEventListener('click', () => {
        void tile.video.play();
        button.remove();
      });
      tile.element.append(button);
    }
  }

  /**
   * @param {string} peer
   * @param {string} text empty to uncover
   */
  cover(peer, text) {
    const tile = this.tiles.get(peer);
    if (tile !== undefined) tile.cover.textContent = text;
  }

  /** @param {string} peer */
  remove(peer) {
    this.tiles.get(peer)?.element.remove();
    this.tiles.delete(peer);
    this.unpoint(peer);
    this.count();
  }

  count() {
    this.element.dataset.count = String(this.tiles.size);
  }

  /**
   * Where on whose picture a mouse is, as shares of its width and height.
   * @param {PointerEvent} event
   * @returns {{on: string, x: number, y: number} | null}
   */
  locate(event) {
    const target = event.target instanceof Element ? event.target.closest('.tile') : null;
    if (!(target instanceof HTMLElement)) return null;
    const box = target.getBoundingClientRect();
    const share = (/** @type {number} */ value) => Math.round(Math.min(1, Math.max(0, value)) * 1_000) / 1_000;
    const x = share((event.clientX - box.left) / box.width);
    const y = share((event.clientY - box.top) / box.height);
    return { on: target.dataset.peer ?? '', x, y };
  }

  /**
   * @param {string} from
   * @param {string} name
   * @param {{on: string, x: number, y: number}} where
   */
  point(from, name, { on, x, y }) {
    const tile = this.tiles.get(on);
    if (tile === undefined) return this.unpoint(from);
    let pointer = this.pointers.get(from);
    if (pointer === undefined) {
      const element = make('span', { className: 'pointer' }, [make('i'), make('b', { text: name })]);
      pointer = { element, timer: setTimeout(() => this.unpoint(from), POINTER_MS) };
      this.pointers.set(from, pointer);
    }
    clearTimeout(pointer.timer);
    pointer.timer = setTimeout(() => this.unpoint(from), POINTER_MS);
    if (pointer.element.parentElement !== tile.element) tile.element.append(pointer.element);
    pointer.element.style.left = `${x * 100}%`;
    pointer.element.style.top = `${y * 100}%`;
  }

  /** @param {string} from */
  unpoint(from) {
    const pointer = this.pointers.get(from);
    if (pointer === undefined) return;
    clearTimeout(pointer.timer);
    pointer.element.remove();
    this.pointers.delete(from);
  }

  /**
   * @param {string} peer
   * @param {string} name of the icon
   */
  react(peer, name) {
    const tile = this.tiles.get(peer);
    if (tile === undefined) return;
    const element = make('span', { className: `reaction ${name}` }, [icon(name)]);
    element.style.left = `${30 + Math.random() * 40}%`;
    tile.element.append(element);
    setTimeout(() => element.remove(), REACTION_MS);
  }

  clear() {
    for (const peer of [...this.tiles.keys()]) this.remove(peer);
  }
}
