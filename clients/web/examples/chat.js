/** The chat: on the bulk lane, so that it never keeps the call waiting. */
import { appendRow, byId, make } from './dom.js';

/** @typedef {import('/client/index.js').Room} Room */

const ROWS_MAX = 500;

export class Chat {
  constructor() {
    this.list = byId('messages');
    this.form = /** @type {HTMLFormElement} */ (byId('chat-form'));
    this.input = /** @type {HTMLInputElement} */ (byId('chat-input'));
    this.unread = byId('unread');
    this.unreadCount = 0;
    /** @type {Room | null} */
    this.room = null;
    this.form.addEventListener('submit', (event) => {
      event.preventDefault();
      const text = this.input.value.trim();
      if (text === '' || this.room === null) return;
      this.input.value = '';
      void this.send(this.room, text);
    });
  }

  /**
   * @param {Room} room
   * @param {string} text
   */
  async send(room, text) {
    const row = this.add({ name: 'You', text, own: true });
    const mark = make('span', { className: 'mark', text: 'sending' });
    row.append(mark);
    row.classList.add('pending');
    try {
      await room.send({ kind: 'chat', text }, { lane: 'bulk' });
      mark.remove();
      row.classList.remove('pending');
    } catch (error) {
      const code = /** @type {{code?: string}} */ (error).code;
      mark.textContent = code === 'uncertain' ? 'may not have arrived' : 'not delivered';
      row.classList.add('failed');
    }
  }

  /**
   * @param {{name: string, text: string, own?: boolean}} message
   */
  add({ name, text, own = false }) {
    const row = make('li', { className: own ? 'own' : '' }, [
      make('span', { className: 'from', text: name }),
      make('span', { className: 'text', text }),
    ]);
    appendRow(this.list, row, ROWS_MAX);
    if (!own && document.body.dataset.view !== 'chat') this.setUnread(this.unreadCount + 1);
    return row;
  }

  /** @param {string} text */
  note(text) {
    appendRow(this.list, make('li', { className: 'event', text }), ROWS_MAX);
  }

  /** @param {number} count */
  setUnread(count) {
    this.unreadCount = count;
    this.unread.hidden = count === 0;
    this.unread.textContent = count > 99 ? '99+' : String(count);
  }
}
