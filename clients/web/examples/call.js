/** The call page: brings client, mesh and views together. */
import { connect, hasWebTransport } from '/client/index.js';
import { Chat } from './chat.js';
import { byId, duration, transportName } from './dom.js';
import { placeIcons } from './icons.js';
import { Log } from './log.js';
import { openMedia } from './media.js';
import { Mesh } from './mesh.js';
import { nameOf, People } from './people.js';
import { Plot } from './plot.js';
import { Stage } from './stage.js';
import { Status } from './status.js';

/**
 * @typedef {import('/client/index.js').Client} Client
 * @typedef {import('/client/index.js').Room} Room
 * @typedef {import('/client/index.js').TransportKind} TransportKind
 */

/** How long the pulled plug stays out: long enough to type something meanwhile. */
const PLUG_MS = 3_000;
const POINTER_EVERY_MS = 40;
const PATH_EVERY_MS = 2_000;
/** After a shorter gap the media did not notice anything either. */
const ICE_GAP_MS = 500;

const query = new URLSearchParams(location.search);
const hash = new URLSearchParams(location.hash.slice(1));

/** A token in the address is for this tab alone: it does not stay there to be copied along. */
const token = hash.get('token') ?? sessionStorage.getItem('handover-token') ?? undefined;
if (token !== undefined) sessionStorage.setItem('handover-token', token);

const stage = new Stage(byId('tiles'));
const chat = new Chat();
const people = new People();
const status = new Status();
const plot = new Plot(/** @type {HTMLCanvasElement} */ (byId('plot')));
const log = new Log(byId('log'), /** @type {HTMLInputElement} */ (byId('log-all')), (peer) => {
  const member = call.room?.members.get(peer);
  return member === undefined ? peer.slice(0, 6) : nameOf(member.metadata);
});

/**
 * The call under way; also for whoever looks on from the console.
 * @type {{client: Client | null, room: Room | null, mesh: Mesh | null, media: import('./media.js').LocalMedia | null, peers: Map<string, RTCPeerConnection>}}
 */
const call = {
  client: null,
  room: null,
  mesh: null,
  media: null,
  get peers() {
    return new Map([...(this.mesh?.links ?? [])].map(([peer, { connection }]) => [peer, connection]));
  },
};
Object.assign(window, { handover: call });

// Lobby

const nameInput = /** @type {HTMLInputElement} */ (byId('name'));
const roomInput = /** @type {HTMLInputElement} */ (byId('room'));
const fakeInput = /** @type {HTMLInputElement} */ (byId('fake'));
const joinButton = /** @type {HTMLButtonElement} */ (byId('join'));

/** @returns {'auto' | TransportKind} */
function wantedTransport() {
  const wanted = query.get('transport');
  return wanted === 'webtransport' || wanted === 'websocket' ? wanted : 'auto';
}

function newRoomName() {
  const first = ['quiet', 'amber', 'swift', 'lunar', 'cedar', 'coral', 'polar', 'silver'];
  const second = ['harbor', 'meadow', 'signal', 'bridge', 'lantern', 'orbit', 'delta', 'summit'];
  const [a = 0, b = 0, c = 0] = crypto.getRandomValues(new Uint8Array(3));
  return `${first[a % first.length]}-${second[b % second.length]}-${c % 100}`;
}

function fillLobby() {
  roomInput.value = hash.get('room') ?? query.get('room') ?? newRoomName();
  nameInput.value = query.get('name') ?? remembered();
  fakeInput.checked = query.get('fake') === '1';
  byId('lobby-form').addEventListener('submit', (event) => {
    event.preventDefault();
    void enter();
  });
  if (query.has('name')) void enter();
  else (nameInput.value === '' ? nameInput : joinButton).focus();
}

function remembered() {
  try {
    return localStorage.getItem('handover:name') ?? '';
  } catch {
    return '';
  }
}

async function enter() {
  const error = byId('lobby-error');
  error.hidden = true;
  joinButton.disabled = true;
  joinButton.textContent = 'Joining';
  try {
    localStorage.setItem('handover:name', nameInput.value);
  } catch {
    // Without storage the name is asked for again next time.
  }
  try {
    await join(nameInput.value.trim() || 'Guest', roomInput.value.trim());
  } catch (failure) {
    error.textContent = explain(failure);
    error.hidden = false;
    end();
  } finally {
    joinButton.disabled = false;
    joinButton.textContent = 'Join';
  }
}

/** @param {unknown} failure */
function explain(failure) {
  const { code, message } = /** @type {{code?: string, message?: string}} */ (failure);
  switch (code) {
    case 'unreachable':
      return `The gateway at ${location.host} does not answer. Is it running?`;
    case 'unsupported':
      return 'This browser has no WebTransport here. Take “auto” or “websocket” in the address, or a current browser on https or localhost.';
    case 'unauthorized':
    case 'forbidden':
      return 'The gateway wants a valid token for this room.';
    case 'room_full':
      return 'This room is full.';
    default:
      return message ?? String(failure);
  }
}

// Call

/**
 * @param {string} name
 * @param {string} roomName
 */
async function join(name, roomName) {
  const media = await openMedia({ name, fake: fakeInput.checked });
  call.media = media;
  const client = await connect(location.origin, {
    token,
    transport: wantedTransport(),
    agent: 'handover-call-page',
    log: (entry) => log.add(entry),
  });
  call.client = client;
  watchClient(client, name);
  const { iceServers } = await client.iceServers();
  const room = await client.join(roomName, { metadata: { name, transport: client.transport } });
  call.room = room;
  const mesh = new Mesh(room, media.stream, { iceServers }, {
    stream: (peer, stream) => void stage.show(peer, stream),
    state: (peer, state) => stage.cover(peer, coverOf(state)),
    gone: (peer) => stage.remove(peer),
    failed: (error) => status.say('bad', `The call to one member failed: ${/** @type {Error} */ (error).message}`),
  });
  call.mesh = mesh;
  chat.room = room;
  byId('room-title').textContent = roomName;
  document.title = `${roomName} · Handover`;
  history.replaceState(null, '', `${location.pathname}${location.search}#room=${encodeURIComponent(roomName)}`);
  document.body.dataset.phase = 'call';
  const self = client.peer ?? '';
  stage.tile(self, { name, self: true });
  void stage.show(self, media.stream);
  if (media.problem !== null) status.say('warn', media.problem);
  watchRoom(room, mesh);
  refresh();
  mesh.sync();
}

/** @param {RTCPeerConnectionState} state */
function coverOf(state) {
  if (state === 'connected') return '';
  return state === 'failed' || state === 'disconnected' ? 'Picture interrupted' : 'Connecting';
}

/**
 * @param {Client} client
 * @param {string} name
 */
function watchClient(client, name) {
  let self = client.peer ?? '';
  client.listen('state', ({ state, resumed = true, gapMs = 0, error, transport }) => {
    if (state === 'reconnecting') {
      plot.down();
      status.reconnecting();
    } else if (state === 'connected') {
      plot.up(gapMs);
      byId('gap-last').textContent = duration(gapMs);
      status.back({ resumed, gapMs, transport });
      if (gapMs > ICE_GAP_MS) call.mesh?.restartIce();
    } else if (state === 'closed' && error) {
      status.say('bad', `The call has ended: ${explain(error)}`, { lasting: true, action: { label: 'Join again', run: () => location.reload() } });
    }
    refresh();
  });
  client.listen('transport', ({ transport, gapMs }) => {
    stage.rename(self, client.peer ?? self);
    self = client.peer ?? self;
    plot.mark(transport === 'webtransport' ? 'WT' : 'WS');
    if (client.state === 'connected') status.say('good', `Moved to ${transportName(transport)}; ${gapMs < 1 ? 'no gap at all' : `${duration(gapMs)} without a connection`}.`);
    call.room?.update({ name, transport }).catch(() => {});
    refresh();
  });
  client.listen('rtt', ({ rtt }) => {
    plot.add(rtt);
    byId('rtt-now').textContent = duration(rtt);
    refresh();
  });
  client.listen('moved', () => {
    status.say('good', 'Your network address changed; the call follows.');
    call.mesh?.restartIce();
  });
  client.listen('draining', () => status.say('warn', 'The gateway is about to restart; moving to another one.'));
  client.listen('dial_failed', ({ retryInMs }) => {
    if (retryInMs !== null && client.state === 'reconnecting') status.retrying(retryInMs);
  });
}

/**
 * @param {Room} room
 * @param {Mesh} mesh
 */
function watchRoom(room, mesh) {
  for (const member of room.others) stage.tile(member.peer, { name: nameOf(member.metadata) });
  room.listen('member_joined', ({ member }) => {
    stage.tile(member.peer, { name: nameOf(member.metadata) });
    chat.note(`${nameOf(member.metadata)} joined`);
    mesh.sync();
    refresh();
  });
  room.listen('member_updated', ({ member }) => {
    stage.tile(member.peer, { name: nameOf(member.metadata) });
    refresh();
  });
  room.listen('member_left', ({ member, reason }) => {
    chat.note(`${nameOf(member.metadata)} left${reason === 'expired' ? ' (lost connection)' : ''}`);
    mesh.drop(member.peer);
    stage.remove(member.peer);
    refresh();
  });
  room.listen('member_away', refresh);
  room.listen('member_back', refresh);
  room.listen('message', ({ lane, from, body }) => {
    const name = nameOf(room.members.get(from)?.metadata);
    if (lane === 'bulk' && body?.kind === 'chat') chat.add({ name, text: String(body.text) });
    else if (lane === 'signal') void mesh.handle(from, body ?? {});
  });
  room.listen('ephemeral', ({ from, body }) => {
    const name = nameOf(room.members.get(from)?.metadata);
    if (body?.kind === 'pointer') stage.point(from, name, body);
    else if (body?.kind === 'reaction') stage.react(from, String(body.name));
    else if (body?.kind === 'path') {
      people.paths.set(from, { transport: body.transport, rtt: typeof body.rtt === 'number' ? body.rtt : null });
      refresh();
    }
  });
  room.listen('reset', ({ reason }) => {
    const isNew = reason === 'new_session';
    chat.note(isNew ? 'The gateway was restarted; the room was joined anew' : 'Some messages could not be caught up on');
    if (!isNew) status.say('warn', 'Back, but away too long: some messages could not be caught up on.');
    for (const peer of [...stage.tiles.keys()]) if (!room.members.has(peer)) stage.remove(peer);
    for (const member of room.others) stage.tile(member.peer, { name: nameOf(member.metadata) });
    mesh.sync();
    refresh();
  });
  room.listen('closed', ({ error }) => {
    if (error !== null) status.say('bad', `This room is closed to you: ${explain(error)}`, { lasting: true });
  });
  const telling = setInterval(() => {
    if (room.isClosed) return clearInterval(telling);
    const { client } = call;
    if (client?.state === 'connected' && room.others.length > 0) room.ephemeral({ kind: 'path', transport: client.transport, rtt: client.rtt });
  }, PATH_EVERY_MS);
}

function refresh() {
  const { client, room } = call;
  if (client === null) return;
  status.show(client.state, client.transport, client.rtt);
  if (room === null) return;
  // Alone there is nobody whom a dead connection keeps waiting.
  const inCall = room.others.length > 0;
  if (client.inCall !== inCall) client.inCall = inCall;
  people.draw(room, { transport: client.transport, rtt: client.rtt, away: client.state !== 'connected' });
  byId('invite').hidden = room.others.length > 0;
  for (const { peer, away } of room.others) {
    const state = call.mesh?.links.get(peer)?.connection.connectionState ?? 'new';
    stage.tiles.get(peer)?.element.classList.toggle('away', away && state !== 'connected');
  }
}

function end() {
  call.mesh?.close();
  call.media?.stop();
  void call.client?.close();
  Object.assign(call, { client: null, room: null, mesh: null, media: null });
  chat.room = null;
  stage.clear();
  document.body.dataset.phase = 'lobby';
}

// Controls

/**
 * @param {string} id
 * @param {'getAudioTracks' | 'getVideoTracks'} tracks
 */
function toggles(id, tracks) {
  const button = byId(id);
  button.addEventListener('click', () => {
    const on = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', String(on));
    for (const track of call.media?.stream[tracks]() ?? []) track.enabled = on;
  });
}

function watchControls() {
  toggles('mic', 'getAudioTracks');
  toggles('camera', 'getVideoTracks');
  byId('leave').addEventListener('click', () => {
    end();
    status.quiet();
  });
  for (const button of document.querySelectorAll('[data-reaction]')) {
    button.addEventListener('click', () => {
      const name = button.getAttribute('data-reaction') ?? '';
      stage.react(call.client?.peer ?? '', name);
      call.room?.ephemeral({ kind: 'reaction', name });
    });
  }
  byId('copy-link').addEventListener('click', () => void copyLink());
  byId('plug').addEventListener('click', () => call.client?.debugDrop(PLUG_MS));
  for (const input of document.querySelectorAll('[name=transport]')) {
    input.addEventListener('change', () => void switchTransport(/** @type {HTMLInputElement} */ (input)));
  }
  showChoice(wantedTransport());
  if (!hasWebTransport()) {
    const input = /** @type {HTMLInputElement} */ (document.querySelector('[name=transport][value=webtransport]'));
    input.disabled = true;
    note('This browser has no WebTransport on this page, so the session runs on a WebSocket.');
  }
  let last = 0;
  byId('tiles').addEventListener('pointermove', (event) => {
    if (event.timeStamp - last < POINTER_EVERY_MS || !call.room || call.room.others.length === 0) return;
    const where = stage.locate(event);
    if (where === null) return;
    last = event.timeStamp;
    call.room.ephemeral({ kind: 'pointer', ...where });
  });
  for (const tab of document.querySelectorAll('.tabs [data-view]')) {
    tab.addEventListener('click', () => showView(tab.getAttribute('data-view') ?? 'call'));
  }
  addEventListener('pagehide', () => void call.client?.close());
  // Out of the browser's cache it comes without the call it had.
  addEventListener('pageshow', ({ persisted }) => {
    if (persisted && document.body.dataset.phase === 'call') location.reload();
  });
}

/** @param {string} view */
function showView(view) {
  document.body.dataset.view = view;
  for (const tab of document.querySelectorAll('.tabs [data-view]')) {
    tab.setAttribute('aria-pressed', String(tab.getAttribute('data-view') === view));
  }
  if (view === 'chat') chat.setUnread(0);
  // What was added while it was hidden could not be followed.
  for (const id of ['log', 'messages']) byId(id).scrollTop = byId(id).scrollHeight;
}

/** @param {string} choice */
function showChoice(choice) {
  for (const input of document.querySelectorAll('[name=transport]')) {
    const radio = /** @type {HTMLInputElement} */ (input);
    radio.checked = radio.value === choice;
  }
}

/** @param {string | null} text */
function note(text) {
  const element = byId('transport-note');
  element.hidden = text === null;
  element.textContent = text ?? '';
}

let chosen = wantedTransport();

/** @param {HTMLInputElement} input */
async function switchTransport(input) {
  const choice = /** @type {'auto' | TransportKind} */ (input.value);
  note(null);
  try {
    await call.client?.switchTransport(choice);
    chosen = choice;
  } catch (error) {
    note(`${transportName(choice)} does not get through from here; the session stays where it is. (${/** @type {Error} */ (error).message})`);
    showChoice(chosen);
  }
}

async function copyLink() {
  const link = new URL(location.href);
  link.search = '';
  const label = byId('copy-label');
  try {
    await navigator.clipboard.writeText(link.href);
    label.textContent = 'Copied';
  } catch {
    // The clipboard may be denied; the address bar has the same link.
    label.textContent = 'Copy it from the address bar';
  }
  setTimeout(() => {
    label.textContent = 'Copy link';
  }, 2_000);
}

placeIcons();
watchControls();
fillLobby();
