/** Clients and one model gateway on links that deliver, reorder between streams, and break. */
import { ClientSession } from '../../src/session.js';
import { ModelGateway, ModelLink } from './gateway.js';

/** @typedef {import('../../src/session/output.js').Output} Output */

export class Peer {
  /** @param {World} world */
  constructor(world) {
    this.world = world;
    this.session = new ClientSession();
    /** @type {Map<number, ModelLink>} */
    this.links = new Map();
    /** @type {Output[]} */
    this.outputs = [];
    /** @type {{signal: [number, string][], bulk: [number, string][]}} on their way up */
    this.up = { signal: [], bulk: [] };
  }

  dial() {
    this.world.linkCount += 1;
    this.links.set(this.world.linkCount, new ModelLink());
    this.session.handleOpened(this.world.now, this.world.linkCount);
    this.write();
  }

  /** Hands everything over that the session has to say. */
  write() {
    for (const id of this.links.keys()) {
      for (const lane of /** @type {const} */ (['signal', 'bulk'])) {
        for (let text = this.session.transmit(this.world.now, id, lane); text !== null; text = this.session.transmit(this.world.now, id, lane)) {
          this.up[lane].push([id, text]);
        }
      }
    }
    for (let output = this.session.pollOutput(); output !== null; output = this.session.pollOutput()) {
      if (output.type === 'close_link') this.forget(output.link);
      this.outputs.push(output);
    }
  }

  /** @param {number} id */
  forget(id) {
    const link = this.links.get(id);
    if (link !== undefined) link.isOpen = false;
    this.links.delete(id);
  }

  /**
   * A link breaks: what is on it is lost.
   * @param {number} id
   */
  cut(id) {
    this.forget(id);
    this.session.handleClosed(this.world.now, id);
    this.write();
  }

  /** One thing moves. Returns whether anything could. */
  step() {
    const moves = [];
    for (const lane of /** @type {const} */ (['signal', 'bulk'])) {
      if (this.up[lane].length > 0) moves.push(() => this.deliverUp(lane));
      for (const [id, link] of this.links) {
        if (link.out[lane].length > 0) moves.push(() => this.deliverDown(id, link, lane));
      }
    }
    const move = this.world.pick(moves);
    move?.();
    return move !== undefined;
  }

  /** @param {'signal' | 'bulk'} lane */
  deliverUp(lane) {
    const [id, text] = /** @type {[number, string]} */ (this.up[lane].shift());
    const link = this.links.get(id);
    if (link !== undefined) this.world.gateway.handle(link, text);
  }

  /**
   * @param {number} id
   * @param {ModelLink} link
   * @param {'signal' | 'bulk'} lane
   */
  deliverDown(id, link, lane) {
    this.session.handleMessage(this.world.now, id, /** @type {string} */ (link.out[lane].shift()));
    this.write();
  }

  /** @param {string} room */
  messages(room) {
    return this.outputs.flatMap((output) =>
      output.type === 'room' && output.room === room && output.event.type === 'message' ? [output.event] : []);
  }

  /** @param {string} room */
  resets(room) {
    return this.outputs.flatMap((output) =>
      output.type === 'room' && output.room === room && output.event.type === 'reset' ? [output.event.reason] : []);
  }

  /** What became of the sends: by number, accepted or the error's code. */
  results() {
    return new Map(this.outputs.flatMap((output) =>
      output.type === 'sent' ? [[output.id, 'error' in output ? output.error.code : 'accepted']] : []));
  }
}

export class World {
  /**
   * @param {() => number} random
   * @param {(lane: 'signal' | 'bulk', body: any) => any} [refuse]
   */
  constructor(random, refuse) {
    this.random = random;
    this.now = 0;
    this.linkCount = 0;
    this.gateway = new ModelGateway(refuse);
    /** @type {Peer[]} */
    this.peers = [];
  }

  peer() {
    const peer = new Peer(this);
    this.peers.push(peer);
    peer.dial();
    return peer;
  }

  /**
   * @template T
   * @param {T[]} from
   * @returns {T | undefined}
   */
  pick(from) {
    return from[Math.floor(this.random() * from.length)];
  }

  /** The gateway forgets everything; its connections break. */
  restart() {
    this.gateway.restart();
    for (const peer of this.peers) for (const id of [...peer.links.keys()]) peer.cut(id);
  }

  /**
   * Lets time pass for everybody.
   * @param {number} ms
   */
  wait(ms) {
    this.now += ms;
    for (const peer of this.peers) {
      peer.session.handleTimeout(this.now);
      peer.write();
    }
  }

  /** Delivers until nothing moves any more. */
  settle() {
    for (let round = 0; round < 200; round += 1) {
      for (const peer of this.peers) if (peer.links.size === 0) peer.dial();
      let moved = false;
      for (const peer of this.peers) while (peer.step()) moved = true;
      this.wait(100);
      if (!moved && round > 30) return;
    }
  }
}
