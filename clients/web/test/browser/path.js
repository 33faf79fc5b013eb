/**
 * The way between browsers and the gateway, in the hands of a test: packets and bytes pass
 * through here, and the test decides whether they do.
 *
 * Browsers meet it at an address of its own, under the port numbers of the gateway, so that
 * the page and the client are what everybody gets.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { connect as connectTcp, createServer } from 'node:net';
import { startGateway } from '../gateway-process.js';

/** @typedef {import('../gateway-process.js').Gateway} Gateway */

const GATEWAY = '127.0.0.1';
const PATH = '127.0.0.3';
/** What the gateway sees packets come from: one network, and another one. */
const SOURCES = ['127.0.0.1', '127.0.0.2'];
/** Enough for a burst of pictures; a path that loses packets by itself would prove nothing. */
const UDP_BUFFER = 1 << 20;

/** @typedef {{up: import('node:dgram').Socket, down: import('node:dgram').RemoteInfo}} Flow */

export class Path {
  /**
   * A gateway and the path before it.
   * @param {import('../gateway-process.js').GatewayOptions & {udp?: boolean}} [options]
   */
  static async open({ udp = true, ...options } = {}) {
    // The gateway's port is the system's choice; nobody else has it at the address of a path.
    const gateway = await startGateway(options);
    try {
      const front = createSocket('udp4');
      front.bind({ port: Number(new URL(gateway.secure).port), address: PATH });
      await once(front, 'listening');
      const server = createServer({ pauseOnConnect: true });
      server.listen(0, PATH);
      await once(server, 'listening');
      return new Path(gateway, front, server, udp);
    } catch (error) {
      await gateway.stop();
      throw error;
    }
  }

  /**
   * @param {Gateway} gateway
   * @param {import('node:dgram').Socket} front
   * @param {import('node:net').Server} server
   * @param {boolean} udp
   */
  constructor(gateway, front, server, udp) {
    this.gateway = gateway;
    this.front = front;
    this.server = server;
    /** Whether packets pass. */
    this.udp = udp;
    /** Whether bytes of TCP pass. */
    this.tcp = true;
    this.source = 0;
    this.port = front.address().port;
    /** @type {Map<string, Flow>} by the browser's address */
    this.flows = new Map();
    /** @type {Set<import('node:net').Socket>} */
    this.sockets = new Set();
    front.setRecvBufferSize(UDP_BUFFER);
    front.on('message', (packet, from) => this.forward(packet, from));
    server.on('connection', (socket) => this.carry(socket));
  }

  /** Where browsers find the call page. */
  get url() {
    const { port } = /** @type {import('node:net').AddressInfo} */ (this.server.address());
    return `http://${PATH}:${port}`;
  }

  /** Nothing passes any more; nobody is told. */
  cut() {
    this.udp = false;
    this.setTcp(false);
  }

  /** Everything passes again, what was under way on TCP too. */
  mend() {
    this.udp = true;
    this.setTcp(true);
  }

  /** From now on the gateway sees packets come from another address: another network. */
  move() {
    this.source += 1;
    for (const { up } of this.flows.values()) up.close();
    this.flows.clear();
  }

  /** @param {boolean} tcp */
  setTcp(tcp) {
    this.tcp = tcp;
    for (const socket of this.sockets) {
      if (tcp) socket.resume();
      else socket.pause();
    }
  }

  /**
   * @param {Buffer} packet
   * @param {import('node:dgram').RemoteInfo} from
   */
  forward(packet, from) {
    if (!this.udp) return;
    const key = `${from.address}:${from.port}`;
    let flow = this.flows.get(key);
    if (flow === undefined) {
      flow = { up: this.openFlow(), down: from };
      const { up, down } = flow;
      up.on('message', (answer) => {
        if (this.udp) this.front.send(answer, down.port, down.address);
      });
      this.flows.set(key, flow);
    }
    flow.up.send(packet, this.port, GATEWAY);
  }

  openFlow() {
    const up = createSocket('udp4');
    up.bind({ port: 0, address: SOURCES[this.source % SOURCES.length] });
    // A gateway that is gone refuses packets, which is its way of not answering.
    up.on('error', () => {});
    up.on('listening', () => up.setRecvBufferSize(UDP_BUFFER));
    return up;
  }

  /** @param {import('node:net').Socket} down */
  carry(down) {
    const { port } = new URL(this.gateway.url);
    const up = connectTcp({ host: GATEWAY, port: Number(port), noDelay: true });
    down.setNoDelay(true);
    for (const [from, to] of /** @type {const} */ ([[down, up], [up, down]])) {
      this.sockets.add(from);
      from.on('data', (bytes) => void to.write(bytes));
      from.on('end', () => to.end());
      from.on('error', () => to.destroy());
      from.on('close', () => {
        this.sockets.delete(from);
        to.destroy();
      });
      if (this.tcp) from.resume();
      else from.pause();
    }
  }

  async close() {
    // While it can still take its leave of everybody.
    await this.gateway.stop();
    this.front.close();
    for (const { up } of this.flows.values()) up.close();
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
  }
}
