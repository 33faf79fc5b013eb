/**
 * The seam between a session and the network. A transport moves whole messages and knows
 * nothing about what they say.
 *
 * @typedef {import('../wire/message.js').Lane} Lane
 * @typedef {import('../session/output.js').Loss} Loss
 */

/** @typedef {'webtransport' | 'websocket'} TransportKind */

/**
 * @typedef {object} TransportEvents
 * @property {(lane: Lane | 'ephemeral', text: string) => void} message
 * @property {() => void} writable a lane that took no more takes more now
 * @property {(loss: Loss) => void} closed called once, and nothing after it
 */

/**
 * An open connection. Whatever arrives before {@link Transport.listen} is called is kept.
 * @typedef {object} Transport
 * @property {TransportKind} kind
 * @property {(events: TransportEvents) => void} listen
 * @property {(lane: Lane) => boolean} writable whether a lane takes another message now
 * @property {(lane: Lane, text: string) => void} send
 * @property {(text: string) => boolean} sendEphemeral false if it was dropped
 * @property {(code: number, reason: string) => void} close what has been sent still goes out
 * @property {() => void} abort
 */

/** Keeps what happens on a transport until somebody listens. */
export class Mailbox {
  constructor() {
    /** @type {TransportEvents | null} */
    this.events = null;
    /** @type {[Lane | 'ephemeral', string][]} */
    this.kept = [];
    /** @type {Loss | null} */
    this.loss = null;
  }

  /** @param {TransportEvents} events */
  listen(events) {
    this.events = events;
    for (const [lane, text] of this.kept.splice(0)) events.message(lane, text);
    if (this.loss !== null) events.closed(this.loss);
  }

  /**
   * @param {Lane | 'ephemeral'} lane
   * @param {string} text
   */
  message(lane, text) {
    if (this.loss !== null) return;
    if (this.events === null) this.kept.push([lane, text]);
    else this.events.message(lane, text);
  }

  writable() {
    if (this.loss === null) this.events?.writable();
  }

  /** @param {Loss} loss */
  closed(loss) {
    if (this.loss !== null) return;
    this.loss = loss;
    this.events?.closed(loss);
  }
}
