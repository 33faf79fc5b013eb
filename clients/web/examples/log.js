/** The protocol as it goes by, one readable line a message. */
import { appendRow, make } from './dom.js';

/** @typedef {import('/client/index.js').LogEntry} LogEntry */

const ROWS_MAX = 300;

export class Log {
  /**
   * @param {HTMLElement} list
   * @param {HTMLInputElement} all whether pings and datagrams are shown too
   */
  constructor(list, all) {
    this.list = list;
    this.all = all;
  }

  /** @param {LogEntry} entry */
  add(entry) {
    const { direction, lane, transport, text } = entry;
    const line = direction === 'note' ? { what: text, detail: '' } : describe(text);
    const isNoise = lane === 'ephemeral' || line.what === 'ping' || line.what === 'pong' || line.what === 'ephemeral' || line.what === 'quality';
    if (isNoise && !this.all.checked) return;
    const row = make('li', { className: `row ${direction}`, title: text.length > 2_000 ? `${text.slice(0, 2_000)} …` : text }, [
      make('time', { text: clock() }),
      make('span', { className: 'arrow', text: { in: '←', out: '→', note: '·' }[direction] }),
      make('span', { className: 'what', text: line.what }),
      make('span', { className: 'detail', text: line.detail }),
    ]);
    if (lane !== null && transport !== null) {
      row.append(make('span', { className: `lane ${lane}`, text: `${lane} · ${transport === 'webtransport' ? 'WT' : 'WS'}` }));
    }
    appendRow(this.list, row, ROWS_MAX);
  }
}

function clock() {
  return new Date().toLocaleTimeString([], { hour12: false, hour: '2-digit', minute: '2-digit', second: '2-digit' });
}

/** @param {string} text */
function describe(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    return { what: 'unreadable', detail: text.slice(0, 80) };
  }
  return { what: String(message.type), detail: detailOf(message, text.length).join(' ') };
}

/**
 * @param {any} message
 * @param {number} size
 * @returns {string[]}
 */
function detailOf(message, size) {
  const bytes = size < 1_000 ? `${size} B` : `${(size / 1_000).toFixed(1)} kB`;
  const place = message.offset === undefined ? [] : [`@${message.offset}`];
  switch (message.type) {
    case 'hello':
      return message.resume ? [`resume ${positions(message.resume.rooms)}`] : ['new session'];
    case 'welcome':
      return [message.resumed ? 'resumed' : 'new', `as ${message.peer}`];
    case 'join':
    case 'leave':
      return [message.room];
    case 'joined':
      return [message.room, `${message.members.length} there`, `signal@${message.signal} bulk@${message.bulk}`];
    case 'reset':
      return [message.reason, `signal@${message.signal} bulk@${message.bulk}`];
    case 'send':
      return [`#${message.seq}`, ...(message.to ? [`to ${message.to}`] : []), kindOf(message.body), bytes];
    case 'accepted':
      return [`#${message.seq}`, ...place];
    case 'message':
      return [...place, `from ${message.from}`, kindOf(message.body), bytes];
    case 'position':
      return [...place, ...(message.start ? ['start'] : [])];
    case 'error':
    case 'close':
      return [String(message.code), message.message ?? message.reason ?? ''];
    case 'quality':
      return [message.level, `${Math.round(message.rtt)} ms`];
    default:
      return [...place, ...(message.peer ? [message.peer] : []), ...(message.reason ? [message.reason] : [])];
  }
}

/** @param {any} body */
function kindOf(body) {
  if (body?.kind === 'description') return body.description?.type ?? 'description';
  return typeof body?.kind === 'string' ? body.kind : '';
}

/** @param {Record<string, {signal: number, bulk: number}>} rooms */
function positions(rooms) {
  return Object.values(rooms).map(({ signal, bulk }) => `signal@${signal} bulk@${bulk}`).join(', ');
}
