/** WebSockets that lead to a model gateway, for whole clients. */
import { ModelGateway, ModelLink } from './gateway.js';

/** @typedef {typeof globalThis.WebSocket} WebSocketClass */

export class Network {
  gateway = new ModelGateway();
  /** Whether a socket finds the gateway. */
  isUp = true;
  /** @type {any[]} what clients said, in order */
  said = [];
  /** @type {Set<ModelSocket>} */
  sockets = new Set();
  /** @type {(() => void)[]} what is held up */
  held = [];
  /**
   * What becomes of a message on its way up.
   * @type {(message: any) => 'pass' | 'hold' | object} an object is the answer in the gateway's stead
   */
  meet = () => 'pass';

  constructor() {
    const network = this;
    /** For the option of that name. */
    this.WebSocket = class extends ModelSocket {
      constructor() {
        super(network);
      }
    };
  }

  /** @param {string} type */
  saidOf(type) {
    return this.said.filter((message) => message.type === type);
  }

  /** Lets everything on that was held up. */
  release() {
    this.meet = () => 'pass';
    for (const goesOn of this.held.splice(0)) goesOn();
  }

  /**
   * The gateway says something on every connection that carries a session.
   * @param {...object} messages
   */
  say(...messages) {
    for (const { link } of this.sockets) {
      if (link.session !== null) for (const message of messages) this.gateway.say(link, message);
    }
    this.flush();
  }

  flush() {
    for (const socket of [...this.sockets]) {
      for (const text of [...socket.link.out.signal.splice(0), ...socket.link.out.bulk.splice(0)]) {
        socket.dispatchEvent(new MessageEvent('message', { data: text }));
      }
    }
  }
}

class ModelSocket extends EventTarget {
  readyState = 0;
  bufferedAmount = 0;
  link = new ModelLink();

  /** @param {Network} network */
  constructor(network) {
    super();
    this.network = network;
    queueMicrotask(() => {
      if (this.readyState !== 0) return;
      this.readyState = network.isUp ? 1 : 3;
      if (network.isUp) network.sockets.add(this);
      this.dispatchEvent(new Event(network.isUp ? 'open' : 'close'));
    });
  }

  /** @param {string} text */
  send(text) {
    const message = JSON.parse(text);
    this.network.said.push(message);
    const goesOn = () => {
      if (!this.network.sockets.has(this)) return;
      this.network.gateway.handle(this.link, text);
      this.network.flush();
    };
    queueMicrotask(() => {
      const verdict = this.network.meet(message);
      if (verdict === 'hold') this.network.held.push(goesOn);
      else if (typeof verdict === 'object') {
        this.network.gateway.say(this.link, { id: message.id, ...verdict });
        this.network.flush();
      } else goesOn();
    });
  }

  close() {
    this.readyState = 3;
    this.network.sockets.delete(this);
  }

  terminate() {
    this.close();
  }
}
