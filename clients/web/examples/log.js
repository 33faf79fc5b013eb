/** The protocol as it goes by, one readable line a message. */
import { appendRow, make } from './dom.js';

/** @typedef {import('/client/index.js').LogEntry} LogEntry */

const ROWS_MAX = 300;

export class Log {
  /**
   * @param {HTMLElement} list
   * @param {HTMLInputElement} all whether pings and datagrams are shown too
   * @param {(peer: string) => string} nameOf what to call a member
   */
  constructor(list, all, nameOf) {
    this.list = list;
    this.all = all;
    this.nameOf = nameOf;
  }

  /** @param {LogEntry} entry */
  add(entry) {
    const { direction, lane, transport, text } = entry;
    const line = direction === 'note' ? { what: text, detail: '', lane: null } : this.describe(text, lane ?? '');
    const isNoise = lane === 'ephemeral' || line.what === 'ping' || line.what === 'pong' || line.what === 'ephemeral' || line.what === 'quality';
    if (isNoise && !this.all.checked) return;
    const shown = direction === 'note' ? text : withoutSecrets(text);
    const row = make('li', { className: `row ${direction === 'note' ? 'remark' : direction}`, title: shown.length > 2_000 ? `${shown.slice(0, 2_000)} …` : shown }, [
      make('time', { text: clock() }),
      make('span', { className: 'arrow', text: { in: '←', out: '→', note: '·' }[direction] }),
      make('span', { className: 'what', text: line.what }),
      make('span', { className: 'detail', text: line.detail }),
    ]);
    if (line.lane !== null) {
      row.append(make('span', { className: `lane ${line.lane}`, text: `${line.lane} · ${transport === 'webtransport' ? 'WT' : 'WS'}` }));
    }
    appendRow(this.list, row, ROWS_MAX);
  }

  /**
   * @param {string} text
   * @param {string} lane where the transport saw it
   */
  describe(text, lane) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return { what: 'unreadable', detail: text.slice(0, 80), lane };
    }
    // A WebSocket has but one stream, on which only the message knows its lane.
    const own = typeof message.lane === 'string' ? message.lane : lane;
    return { what: String(message.type), detail: detailOf(message, text.length, this.nameOf).join(' '), lane: own };
  }
}

/**
 * A screen is shared, photographed and copied from: what lets somebody in stays out of it.
 * @param {string} text
 */
function withoutSecrets(text) {
  try {
    const message = JSON.parse(text);
    if (!SECRETIVE.has(message.type)) return text;
    return JSON.stringify(message, (key, value) => (SECRETS.has(key) && value != null ? '•••' : value));
  } catch {
    return text.slice(0, 80);
  }
}

/** The messages that carry secrets, and their names there. Bodies are none of our business. */
const SECRETIVE = new Set(['hello', 'welcome', 'refresh', 'ice']);
const SECRETS = new Set(['token', 'secret', 'credential']);

function clock() {
  return new Date().toLocaleTimeString([], { hour12: false, hour: '2-digit', minute: '2-digit', second: '2-digit' });
}

/**
 * @param {any} message
 * @param {number} size
 * @param {(peer: string) => string} nameOf
 * @returns {string[]}
 */
function detailOf(message, size, nameOf) {
  const bytes = size < 1_000 ? `${size} B` : `${(size / 1_000).toFixed(1)} kB`;
  const place = message.offset === undefined ? [] : [`@${message.offset}`];
  switch (message.type) {
    case 'hello':
      return message.resume ? [`resume ${positions(message.resume.rooms)}`] : ['new session'];
    case 'welcome':
      return [message.resumed ? 'resumed' : 'new', `as ${message.peer.slice(0, 6)}`];
    case 'join':
    case 'leave':
      return [message.room];
    case 'joined':
      return [message.room, `${message.members.length} there`, `signal@${message.signal} bulk@${message.bulk}`];
    case 'reset':
      return [message.reason, `signal@${message.signal} bulk@${message.bulk}`];
    case 'send':
      return [`#${message.seq}`, ...(message.to ? [`to ${nameOf(message.to)}`] : []), kindOf(message.body), bytes];
    case 'accepted':
      return [`#${message.seq}`, ...place];
    case 'message':
      return [...place, `from ${nameOf(message.from)}`, kindOf(message.body), bytes];
    case 'position':
      return [...place, ...(message.start ? ['start'] : [])];
    case 'error':
    case 'close':
      return [String(message.code), message.message ?? message.reason ?? ''];
    case 'quality':
      return [message.level, `${Math.round(message.rtt)} ms`];
    default:
      return [...place, ...(message.peer ? [nameOf(message.peer)] : []), ...(message.reason ? [message.reason] : [])];
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
