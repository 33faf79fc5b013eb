/**
 * What a session tells its owner.
 *
 * @typedef {import('../errors.js').HandoverError} HandoverError
 * @typedef {import('../wire/message.js').Lane} Lane
 * @typedef {import('../wire/message.js').Member} Member
 * @typedef {import('../wire/message.js').Quality} Quality
 */

/**
 * A send is in the room's log.
 * @typedef {object} Receipt
 * @property {string} epoch
 * @property {number | null} offset null where the gateway answered for several sends at once
 */

/**
 * Something that happened in a room.
 * @typedef {{type: 'message', lane: Lane, epoch: string, offset: number, from: string,
 *     to: string | null, body: any}
 *   | {type: 'ephemeral', from: string, body: any}
 *   | {type: 'member_joined', member: Member}
 *   | {type: 'member_updated', member: Member}
 *   | {type: 'member_left', member: Member, reason: string}
 *   | {type: 'member_away', member: Member}
 *   | {type: 'member_back', member: Member}
 *   | {type: 'reset', reason: string, members: Member[]}
 *   | {type: 'lost', error: HandoverError}} RoomEvent
 */

/**
 * Why a connection is of no more use.
 * @typedef {object} Loss
 * @property {number} [code] the close code, if one was given
 * @property {string} [reason]
 * @property {number} [retryAfter]
 */

/**
 * @typedef {{type: 'answer', id: number, value: any}
 *   | {type: 'answer', id: number, error: HandoverError}
 *   | {type: 'sent', id: number, receipt: Receipt}
 *   | {type: 'sent', id: number, error: HandoverError}
 *   | {type: 'room', room: string, event: RoomEvent}
 *   | {type: 'live', link: number, resumed: boolean, peer: string, user: string | null}
 *   | {type: 'handing_over', link: number}
 *   | {type: 'down', link: number, loss: Loss}
 *   | {type: 'link_failed', link: number, loss: Loss, timedOut: boolean}
 *   | {type: 'forestalled', link: number}
 *   | {type: 'close_link', link: number, why: string}
 *   | {type: 'stalled', link: number}
 *   | {type: 'recovered', link: number}
 *   | {type: 'rtt', rtt: number}
 *   | {type: 'quality', quality: Quality}
 *   | {type: 'moved'}
 *   | {type: 'expiring', in: number}
 *   | {type: 'draining', reconnectIn: number}
 *   | {type: 'refused', error: HandoverError, room: string | null}
 *   | {type: 'ended', error: HandoverError | null, code: number | null}} Output
 */

export {};
