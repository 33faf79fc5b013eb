/** The WebSocket as a transport: what may stand in its buffer. */
import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { openWebSocket } from '../src/transport/websocket.js';

class Socket extends EventTarget {
  readyState = 0;
  bufferedAmount = 0;
  /** @type {string[]} */
  sent = [];
  /** @type {Socket | undefined} */
  static last;

  constructor() {
    super();
    Socket.last = this;
  }

  open() {
    this.readyState = 1;
    this.dispatchEvent(new Event('open'));
    return this;
  }

  /** @param {string} text */
  send(text) {
    this.sent.push(text);
    this.bufferedAmount += text.length;
  }

  close() {
    this.readyState = 3;
  }
}

/** @param {Partial<import('../src/transport/transport.js').TransportEvents>} [events] */
async function opened(events) {
  const opening = openWebSocket('ws://host', { WebSocket: Socket });
  const socket = /** @type {Socket} */ (Socket.last).open();
  const transport = await opening;
  transport.listen({ message: () => {}, writable: () => {}, closed: () => {}, ...events });
  return { socket, transport };
}

test('bulk waits while anything much is buffered; signal does not', async () => {
  mock.timers.enable({ apis: ['setTimeout'] });
  try {
    let writable = 0;
    const { socket, transport } = await opened({ writable: () => (writable += 1) });
    let handedOver = 0;
    while (transport.writable('bulk')) {
      transport.send('bulk', 'x'.repeat(1_000));
      handedOver += 1_000;
    }
    assert.ok(handedOver <= 17_384, `${handedOver} bytes of bulk stand before signal`);
    assert.ok(transport.writable('signal'));
    assert.equal(transport.sendEphemeral('late'), false);
    mock.timers.tick(1_000);
    assert.equal(writable, 1);
    socket.bufferedAmount = 0;
    assert.ok(transport.writable('bulk'));
    assert.equal(transport.sendEphemeral('now'), true);
  } finally {
    mock.timers.reset();
  }
});

test('what came before anybody listened is kept, and the end is told once', async () => {
  const opening = openWebSocket('ws://host', { WebSocket: Socket });
  const socket = /** @type {Socket} */ (Socket.last).open();
  const transport = await opening;
  socket.dispatchEvent(new MessageEvent('message', { data: 'early' }));
  /** @type {any[]} */
  const heard = [];
  transport.listen({
    message: (lane, text) => heard.push([lane, text]),
    writable: () => {},
    closed: (loss) => heard.push(loss),
  });
  socket.dispatchEvent(Object.assign(new Event('close'), { code: 4000, reason: 'draining' }));
  transport.abort();
  assert.deepEqual(heard, [['signal', 'early'], { code: 4000, reason: 'draining' }]);
});

test('an abort while it connects closes it', async () => {
  const abort = new AbortController();
  const opening = openWebSocket('ws://host', { WebSocket: Socket, signal: abort.signal });
  abort.abort();
  await assert.rejects(opening, { code: 'aborted' });
  assert.equal(Socket.last?.readyState, 3);
});
