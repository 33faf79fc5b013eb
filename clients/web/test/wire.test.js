/** The wire against the vectors that every implementation reads. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { encodeFrame, FrameReader, FRAME_BYTES_MAX, varint } from '../src/wire/frame.js';
import { bodyText, decode, encode, metadataText, SERVER_TYPES } from '../src/wire/message.js';
import { randomFrom } from './model/gateway.js';

/**
 * @param {string} name
 * @returns {Promise<any[]>}
 */
async function vectors(name) {
  const file = new URL(`../../../protocol/vectors/${name}.json`, import.meta.url);
  return JSON.parse(await readFile(file, 'utf8'));
}

test('what the client says is, byte for byte, what the vectors say', async () => {
  let count = 0;
  for (const { name, direction, json } of await vectors('messages')) {
    if (direction !== 'client') continue;
    const { body, metadata, ...fields } = JSON.parse(json);
    const textOf = (/** @type {string} */ field) => json.slice(json.indexOf(`"${field}":`) + field.length + 3, -1);
    const texts = {
      body: body === undefined ? undefined : textOf('body'),
      metadata: metadata === undefined ? undefined : textOf('metadata'),
    };
    assert.equal(encode(fields, texts), json, name);
    count += 1;
  }
  assert.ok(count > 20);
});

test('every message of the gateway is read', async () => {
  const seen = new Set();
  for (const { name, direction, json } of await vectors('messages')) {
    if (direction !== 'server') continue;
    const message = decode(json);
    assert.deepEqual(message, JSON.parse(json), name);
    seen.add(message?.type);
  }
  assert.deepEqual([...seen].sort(), [...SERVER_TYPES].sort());
});

test('readings of a later version are understood, unknown types passed over', async () => {
  const named = new Map((await vectors('messages')).map(({ name, json }) => [name, JSON.parse(json).type]));
  let count = 0;
  for (const { name, direction, codec, text, means } of await vectors('readings')) {
    if (direction !== 'server' || codec !== 'json') continue;
    assert.equal(decode(text)?.type, named.get(means), name);
    count += 1;
  }
  assert.ok(count > 0);
  assert.equal(decode('{"type":"news","id":7}'), null);
  assert.equal(decode('{"type":"toString"}'), null);
});

test('what is no message is an error', () => {
  for (const text of ['', '{', '[]', 'null', '7', '{}', '{"type":7}', '{"type":"ok"}', '{"type":"ok","id":-1}', '{"type":"message","room":"r"}']) {
    assert.throws(() => decode(text), text);
  }
});

test('bodies may be anything but undefined, metadata an object only', () => {
  assert.equal(bodyText(null), 'null');
  assert.throws(() => bodyText(undefined), TypeError);
  assert.equal(metadataText({ a: 1 }), '{"a":1}');
  assert.throws(() => metadataText([1]), TypeError);
});

test('frame lengths take their shortest form, as in RFC 9000', () => {
  /** @type {[number, number[]][]} */
  const pinned = [
    [0, [0]], [37, [0x25]], [63, [0x3f]], [64, [0x40, 0x40]], [15_293, [0x7b, 0xbd]],
    [16_384, [0x80, 0, 0x40, 0]], [494_878_333, [0x9d, 0x7f, 0x3e, 0x7d]],
    [2 ** 30, [0xc0, 0, 0, 0, 0x40, 0, 0, 0]],
  ];
  for (const [value, bytes] of pinned) assert.deepEqual(varint(value), bytes);
});

test('frames come out whole, however they were cut', () => {
  const texts = ['', 'a', 'ä€😀', 'x'.repeat(63), 'x'.repeat(64), 'y'.repeat(20_000)];
  const whole = new Uint8Array(texts.flatMap((text) => [...encodeFrame(text)]));
  for (let seed = 1; seed <= 50; seed += 1) {
    const random = randomFrom(seed);
    const reader = new FrameReader();
    const got = [];
    for (let at = 0; at < whole.length;) {
      const size = 1 + Math.floor(random() * (random() < 0.5 ? 3 : 9_000));
      reader.push(whole.subarray(at, at + size));
      at += size;
      for (let text = reader.next(); text !== null; text = reader.next()) got.push(text);
    }
    assert.deepEqual(got, texts, `seed ${seed}`);
  }
});

test('any valid length of a length is read; an absurd one is an error', () => {
  const reader = new FrameReader();
  reader.push(new Uint8Array([0x40, 1, 0x61, 0x80, 0, 0, 1, 0x62, 0xc0, 0, 0, 0, 0, 0, 0, 1, 0x63]));
  assert.deepEqual([reader.next(), reader.next(), reader.next(), reader.next()], ['a', 'b', 'c', null]);
  const absurd = new FrameReader();
  absurd.push(new Uint8Array(varint(FRAME_BYTES_MAX + 1)));
  assert.throws(() => absurd.next(), RangeError);
  const broken = new FrameReader();
  broken.push(new Uint8Array([1, 0xff]));
  assert.throws(() => broken.next(), TypeError);
});
