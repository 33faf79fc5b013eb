/** Who is there, on which transport, and how far away. */
import { byId, duration, make, transportName } from './dom.js';

/**
 * @typedef {import('/client/index.js').Room} Room
 * @typedef {{transport: string | null, rtt: number | null, away?: boolean}} Path
 */

export class People {
  constructor() {
    this.list = byId('people');
    this.count = byId('people-count');
    /** @type {Map<string, Path>} */
    this.paths = new Map();
  }

  /**
   * @param {Room} room
   * @param {Path} own
   */
  draw(room, own) {
    const members = [...room.members.values()];
    for (const peer of [...this.paths.keys()]) if (!room.members.has(peer)) this.paths.delete(peer);
    this.count.textContent = String(members.length);
    this.list.replaceChildren(...members.map((member) => {
      const isSelf = member === room.self;
      const path = isSelf ? own : this.paths.get(member.peer);
      const transport = path?.transport ?? member.metadata.transport ?? null;
      const name = make('span', { className: 'name', text: nameOf(member.metadata) });
      if (isSelf) name.append(make('span', { className: 'muted', text: ' you' }));
      const away = isSelf ? own.away : member.away;
      const row = make('li', { className: away ? 'away' : '' }, [
        make('span', { className: 'avatar', text: [...nameOf(member.metadata)][0]?.toUpperCase() ?? '?' }),
        name,
      ]);
      if (away) row.append(make('span', { className: 'tag warn', text: 'reconnecting' }));
      else {
        if (transport) row.append(make('span', { className: `tag ${transport}`, text: transportName(transport) }));
        row.append(make('span', { className: 'rtt', text: path?.rtt == null ? '' : duration(path.rtt) }));
      }
      row.dataset.peer = member.peer;
      return row;
    }));
  }
}

/** @param {Record<string, any> | undefined} metadata */
export function nameOf(metadata) {
  const name = metadata?.name;
  return typeof name === 'string' && name.trim() !== '' ? name.slice(0, 40) : 'Guest';
}
