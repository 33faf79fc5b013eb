/**
 * A call as a mesh: one `RTCPeerConnection` for every other member, negotiated by the pattern
 * called perfect negotiation. Polite is whoever joined later, by `since`; the polite one also
 * opens the connection, so that two offers rarely meet.
 */

/**
 * @typedef {import('/client/index.js').Member} Member
 * @typedef {import('/client/index.js').Room} Room
 */

/**
 * @typedef {object} MeshEvents
 * @property {(peer: string, stream: MediaStream) => void} stream
 * @property {(peer: string, state: RTCPeerConnectionState) => void} state
 * @property {(peer: string) => void} gone
 * @property {(error: unknown) => void} failed
 */

/** ICE often mends a short break by itself; after this long it is told to start anew. */
const DISCONNECTED_MS = 2_500;
/** ICE that was restarted and is still not there is restarted again after this. */
const RESTART_AGAIN_MS = 6_000;

export class Mesh {
  /**
   * @param {Room} room
   * @param {MediaStream} local
   * @param {RTCConfiguration} configuration
   * @param {MeshEvents} events
   */
  constructor(room, local, configuration, events) {
    this.room = room;
    this.local = local;
    this.configuration = configuration;
    this.events = events;
    /** @type {Map<string, Link>} by peer */
    this.links = new Map();
  }

  /** Brings the connections in line with who is there. */
  sync() {
    for (const peer of [...this.links.keys()]) if (!this.room.members.has(peer)) this.drop(peer);
    for (const member of this.room.others) {
      if (this.isPolite(member)) this.link(member);
    }
  }

  /** @param {Member} member */
  isPolite(member) {
    return (this.room.self?.since ?? 0) > member.since;
  }

  /** @param {Member} member */
  link(member) {
    let link = this.links.get(member.peer);
    if (link === undefined) {
      link = new Link(this, member.peer, this.isPolite(member));
      this.links.set(member.peer, link);
    }
    return link;
  }

  /** @param {string} peer */
  drop(peer) {
    const link = this.links.get(peer);
    if (link === undefined) return;
    this.links.delete(peer);
    link.close();
    this.events.gone(peer);
  }

  /**
   * @param {string} from
   * @param {any} body
   */
  async handle(from, body) {
    const member = this.room.members.get(from);
    if (member === undefined) return;
    if (body.kind === 'description') await this.link(member).describe(body.description);
    else if (body.kind === 'candidate') await this.links.get(from)?.addCandidate(body.candidate);
  }

  /** The way to the others may be another one now. */
  restartIce() {
    for (const link of this.links.values()) link.restart();
  }

  close() {
    for (const peer of [...this.links.keys()]) this.drop(peer);
  }
}

class Link {
  /**
   * @param {Mesh} mesh
   * @param {string} peer
   * @param {boolean} polite
   */
  constructor(mesh, peer, polite) {
    this.mesh = mesh;
    this.peer = peer;
    this.polite = polite;
    this.makingOffer = false;
    this.ignoresOffer = false;
    this.settingAnswer = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.mending = undefined;
    /** Descriptions and candidates are taken one after the other. */
    this.queue = Promise.resolve();
    const connection = new RTCPeerConnection(mesh.configuration);
    this.connection = connection;
    for (const track of mesh.local.getTracks()) connection.addTrack(track, mesh.local);
    connection.onnegotiationneeded = () => void this.offer();
    connection.onicecandidate = ({ candidate }) => {
      if (candidate !== null) this.say({ kind: 'candidate', candidate });
    };
    connection.ontrack = ({ streams: [stream] }) => {
      if (stream !== undefined) mesh.events.stream(peer, stream);
    };
    connection.onconnectionstatechange = () => {
      mesh.events.state(peer, connection.connectionState);
    };
    connection.oniceconnectionstatechange = () => this.watchIce();
  }

  /** @param {unknown} body */
  say(body) {
    this.mesh.room.send(body, { to: this.peer }).catch((error) => {
      // The addressee has just left: its connection is about to be dropped.
      if (error.code !== 'no_such_peer' && error.code !== 'closed') this.mesh.events.failed(error);
    });
  }

  async offer() {
    try {
      this.makingOffer = true;
      await this.connection.setLocalDescription();
      this.say({ kind: 'description', description: this.connection.localDescription });
    } catch (error) {
      if (this.connection.signalingState !== 'closed') this.mesh.events.failed(error);
    } finally {
      this.makingOffer = false;
    }
  }

  /** @param {RTCSessionDescriptionInit} description */
  describe(description) {
    return this.inTurn(async () => {
      const { connection } = this;
      const isReady = !this.makingOffer && (connection.signalingState === 'stable' || this.settingAnswer);
      const collides = description.type === 'offer' && !isReady;
      this.ignoresOffer = !this.polite && collides;
      if (this.ignoresOffer) return;
      this.settingAnswer = description.type === 'answer';
      try {
        await connection.setRemoteDescription(description);
      } finally {
        this.settingAnswer = false;
      }
      if (description.type !== 'offer') return;
      await connection.setLocalDescription();
      this.say({ kind: 'description', description: connection.localDescription });
    });
  }

  /** @param {RTCIceCandidateInit} candidate */
  addCandidate(candidate) {
    return this.inTurn(async () => {
      try {
        await this.connection.addIceCandidate(candidate);
      } catch (error) {
        // It belongs to an offer that was ignored.
        if (!this.ignoresOffer) throw error;
      }
    });
  }

  /** @param {() => Promise<void>} work */
  inTurn(work) {
    this.queue = this.queue.then(work).catch((error) => {
      if (this.connection.signalingState !== 'closed') this.mesh.events.failed(error);
    });
    return this.queue;
  }

  watchIce() {
    clearTimeout(this.mending);
    const state = this.connection.iceConnectionState;
    if (state === 'failed') this.restart();
    else if (state === 'disconnected') this.mending = setTimeout(() => this.restart(), DISCONNECTED_MS);
  }

  restart() {
    clearTimeout(this.mending);
    if (this.connection.signalingState === 'closed') return;
    this.connection.restartIce();
    this.mending = setTimeout(() => {
      if (['failed', 'disconnected'].includes(this.connection.iceConnectionState)) this.restart();
    }, RESTART_AGAIN_MS);
  }

  close() {
    clearTimeout(this.mending);
    this.connection.close();
  }
}
