"""Section "WebTransport": streams, frames and datagrams."""

import asyncio

import varint
from bincode import Text
from case import Case
from member import DEADLINE_S


class Frames(Case):
    async def test_byte_by_byte(self):
        for codec in ("json", "bincode"):
            member = await self.open(("wt", codec))
            for message in (
                {"type": "hello", "version": 1},
                {"type": "ping", "id": 300},
                {"type": "join", "id": 7, "room": self.room() + codec},
            ):
                payload = member.encode(message)
                for byte in varint.write(len(payload)) + payload:
                    member.http.write(member.signal, bytes([byte]))
                    # Let it out before the next one is added to the same packet.
                    await member.http.ping()
            await member.expect("welcome")
            await member.expect("pong", id=300)
            await member.expect("joined", id=7)

    async def test_many_frames_at_once(self):
        member = await self.greeted()
        frames = b""
        for number in range(500):
            payload = member.encode({"type": "ping", "id": number})
            frames += varint.write(len(payload)) + payload
        member.http.write(member.signal, frames)
        for number in range(500):
            await member.expect("pong", id=number)

    async def test_every_form_of_the_length(self):
        member = await self.greeted()
        payload = member.encode({"type": "ping", "id": 1})
        for size in (1, 2, 4, 8):
            member.http.write(member.signal, varint.write(len(payload), size) + payload)
            await member.expect("pong", id=1)

    async def test_the_gateway_writes_the_shortest_form(self):
        member = await self.open(("wt", "bincode"), streams=False)
        signal = member.http.open_stream(member.session)
        member.http.write(signal, bytes.fromhex("050001000000") + b"\x02\x0a\x07")
        await asyncio.wait_for(signal.frames.get(), DEADLINE_S)
        pong = await asyncio.wait_for(signal.frames.get(), DEADLINE_S)
        self.assertEqual(pong, b"\x12\x07")

    async def test_a_length_of_zero(self):
        member = await self.greeted()
        member.http.write(member.signal, b"\0")
        await member.close_code(4502)

    async def test_too_long_a_message_is_refused_by_its_length(self):
        for stream in ("signal", "bulk"):
            member = await self.greeted()
            member.http.write(getattr(member, stream), varint.write(65_537))
            await member.close_code(4506)


class Streams(Case):
    async def test_the_bulk_stream_may_come_first_or_last(self):
        room = self.room()
        for bulk_first in (True, False):
            member = await self.open(streams=False)
            member.signal, member.bulk = member.open_stream(), member.open_stream()
            if bulk_first:
                await member.send("lane", lane="bulk")
                await member.http.ping()
                await member.hello()
            else:
                await member.hello()
                await member.answers()
                await member.send("lane", lane="bulk")
            await member.join(room)
            await member.post(room, "bulk", "1")
            await member.accepted(room, "bulk", 1)

    async def test_the_wrong_stream(self):
        room = self.room()
        member = await self.greeted()
        await member.join(room)
        send = {"type": "send", "room": room, "seq": 1, "body": Text("1")}
        await member.send_bytes(member.encode({**send, "lane": "bulk"}), "signal")
        await member.refused("bad_request", "bulk", room=room, seq=1)
        await member.send_bytes(member.encode({**send, "lane": "signal"}), "bulk")
        await member.refused("bad_request", "signal", room=room, seq=1)
        await member.send_bytes(member.encode({"type": "ping", "id": 5}), "bulk")
        await member.refused("bad_request", id=5)
        await member.send_bytes(member.encode({"type": "lane", "lane": "bulk"}), "signal")
        await member.refused("bad_request")
        # Nothing was applied, and both streams go on.
        for lane in ("signal", "bulk"):
            await member.post(room, lane, "1")
            await member.accepted(room, lane, 1)

    async def test_further_streams_are_refused_and_change_nothing(self):
        member = await self.greeted()
        await member.join(self.room())
        for one_way in (False, True):
            stream = member.http.open_stream(member.session, one_way=one_way)
            payload = member.encode({"type": "bye"})
            member.http.write(stream, varint.write(len(payload)) + payload)
            await asyncio.wait_for(stream.over.wait(), DEADLINE_S)
        await member.answers()
        for lane in ("signal", "bulk"):
            await member.post(self.room(), lane, "1")
            await member.accepted(self.room(), lane, 1)

    async def test_the_end_of_either_stream_ends_the_connection(self):
        for stream in ("signal", "bulk"):
            for how in ("end", "reset"):
                with self.subTest(stream=stream, how=how):
                    member = await self.greeted()
                    await member.answers()
                    if how == "end":
                        member.http.write(getattr(member, stream), b"", end=True)
                    else:
                        member.http.reset(getattr(member, stream))
                    await member.closed()

    async def test_a_stream_that_begins_with_anything_else(self):
        member = await self.open(streams=False)
        member.signal = member.open_stream()
        await member.send("ping", id=1)
        await member.cut(4502)


class Datagrams(Case):
    async def two(self, codec="json"):
        members = [await self.greeted(("wt", codec)), await self.greeted(("wt", codec))]
        for member in members:
            await member.join(self.room() + codec)
        await members[0].expect("member_joined")
        return self.room() + codec, *members

    async def test_datagrams_both_ways(self):
        for codec in ("json", "bincode"):
            room, *members = await self.two(codec)
            for sender, receiver in (members, reversed(members)):
                body = Text('{"x": 1}')
                sender.send_datagram(
                    sender.encode({"type": "ephemeral", "room": room, "body": body})
                )
                message = await receiver.expect("ephemeral", "ephemeral", room=room)
                self.assertEqual((message["from"], message["body"]), (sender.peer, body))

    async def test_the_largest_ephemeral_fits_one(self):
        room, one, other = await self.two()
        body = Text('"%s"' % ("x" * 798))
        one.send_datagram(one.encode({"type": "ephemeral", "room": room, "body": body}))
        self.assertEqual((await other.next("ephemeral"))["body"], body)

    async def test_what_makes_no_sense_is_dropped_without_an_answer(self):
        room, one, other = await self.two()
        dropped = [
            b"",
            b"\xff\xfe",
            b'{"type":"ping","id":1}',
            b'{"type":"bye"}',
            one.encode({"type": "ephemeral", "room": "elsewhere", "body": Text("1")}),
            one.encode({"type": "ephemeral", "room": room, "body": Text('"%s"' % ("x" * 799))}),
        ]
        for payload in dropped:
            one.send_datagram(payload)
        one.send_datagram(one.encode({"type": "ephemeral", "room": room, "body": Text("2")}))
        self.assertEqual((await other.next("ephemeral"))["body"], "2")
        await one.answers()
