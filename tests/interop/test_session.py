"""Sections "Messages", "Resume" and "Refusals", as far as one connection alone can show them."""

import asyncio
import unittest

from bincode import Text
from case import Case, everywhere
from gateway import Gateway
from websocket import WebSocket
from webtransport import WebTransport

LIMITS = {
    "message_bytes": 65_536,
    "metadata_bytes": 4_096,
    "ephemeral_bytes": 800,
    "room_bytes": 128,
    "rooms": 64,
}
NO_SESSION = {"session": "nobody", "secret": "nothing", "rooms": {}}


class Greeting(Case):
    @everywhere
    async def test_welcome(self):
        member = await self.greeted()
        welcome = member.welcome
        self.assertIsNone(welcome["user"])
        self.assertEqual((welcome["rooms"], welcome["lost"]), ({}, []))
        self.assertEqual((welcome["heartbeat"], welcome["resume_window"]), (15_000, 120_000))
        self.assertEqual(welcome["limits"], LIMITS)
        self.assertRegex(welcome["peer"], r"^[A-Za-z0-9_-]{1,31}$")
        other = await self.greeted()
        for name in ("session", "secret", "peer"):
            self.assertNotEqual(welcome[name], other.welcome[name])

    @everywhere
    async def test_requests_may_follow_hello_at_once(self):
        member = await self.open()
        room = self.room()
        await member.send("hello", version=1, agent="interop/1 " + "x" * 200, token="ignored")
        await member.send("join", id=1, room=room)
        await member.send("send", room=room, lane="signal", seq=1, body=Text("1"))
        await member.send("members", id=2, room=room)
        await member.send("ping", id=3)
        await member.expect("welcome")
        joined = await member.expect("joined", id=1)
        await member.expect("accepted", room=room, seq=1, offset=joined["signal"] + 1)
        members = await member.expect("members", id=2, signal=joined["signal"] + 1)
        self.assertEqual(members["members"], joined["members"])
        await member.expect("pong", id=3)

    @everywhere
    async def test_another_version(self):
        member = await self.open()
        await member.send("hello", version=2)
        await member.close_code(4507, error="unsupported_version")

    @everywhere
    async def test_a_first_message_other_than_hello(self):
        member = await self.open()
        await member.send("join", id=1, room="r")
        await member.cut(4502)

    @everywhere
    async def test_a_second_hello(self):
        member = await self.greeted()
        await member.send("hello", version=1)
        await member.close_code(4502)

    @everywhere
    async def test_nobodys_session_leaves_the_connection_for_a_fresh_hello(self):
        member = await self.open()
        await member.send("hello", version=1, resume=NO_SESSION)
        await member.send("join", id=1, room="r")
        await member.send("ping", id=2)
        await member.refused("session_unknown")
        await member.hello()
        await member.answers()

    @everywhere
    async def test_the_third_refused_hello(self):
        member = await self.open()
        for _ in range(3):
            await member.send("hello", version=1, resume=NO_SESSION)
        await member.refused("session_unknown")
        await member.refused("session_unknown")
        await member.close_code(4501, error="session_unknown")

    @everywhere
    async def test_bye(self):
        member = await self.greeted()
        await member.join(self.room())
        await member.bye()

    @everywhere
    async def test_small_requests(self):
        member = await self.greeted()
        number = await member.request("ping")
        await member.expect("pong", id=number)
        await member.send("ping", id=9_007_199_254_740_991)
        await member.expect("pong", id=9_007_199_254_740_991)
        number = await member.request("ice")
        ice = await member.expect("ice", id=number)
        self.assertIsInstance(ice["servers"], list)
        self.assertGreater(ice["ttl"], 0)
        number = await member.request("refresh", token="a.b.c")
        await member.expect("ok", id=number)


class Unreadable(Case):
    """What cannot be parsed closes with `protocol_error`."""

    async def closes(self, payload):
        member = await self.greeted()
        await member.send_bytes(payload)
        await member.close_code(4502)

    async def test_json(self):
        for transport in ("wt", "wss"):
            self.way = (transport, "json")
            for payload in (b"{", b"[]", b'"hello"', b"nonsense", b'{"type":"ping","id":1}x'):
                with self.subTest(transport=transport, payload=payload):
                    await self.closes(payload)

    async def test_not_utf_8_on_a_stream(self):
        self.way = ("wt", "json")
        await self.closes(b'{"type":"ping","id":1,"x":"\xff"}')

    async def test_bincode(self):
        for transport in ("wt", "wss"):
            self.way = (transport, "bincode")
            early, tag, not_utf_8 = b"\x0a", b"\xfe\x01", b"\x03\x01\x01\xff"
            for payload in (early, tag, not_utf_8):
                with self.subTest(transport=transport, payload=payload):
                    await self.closes(payload)

    async def test_the_other_kind_of_websocket_message(self):
        for codec in ("json", "bincode"):
            member = await self.greeted(("ws", codec))
            ping = member.encode({"type": "ping", "id": 1})
            await member.socket.send(ping if codec == "json" else ping.decode())
            await member.close_code(4502)

    @everywhere
    async def test_a_message_over_the_limit(self):
        member = await self.greeted()
        room = self.room()
        await member.join(room)
        send = {"type": "send", "room": room, "lane": "signal", "seq": 1}
        empty = len(member.encode({**send, "body": Text('""')}))
        # Until the longer length of the body, in bincode, has been made up for.
        pad = 65_536 - empty
        while len(fits := member.encode({**send, "body": Text(f'"{"x" * pad}"')})) > 65_536:
            pad -= 1
        self.assertEqual(len(fits), 65_536)
        await member.send_bytes(fits)
        await member.accepted(room, "signal", 1)
        await member.send_bytes(member.encode({**send, "seq": 2, "body": Text(f'"{"x" * (pad + 1)}"')}))
        await member.close_code(4506)


class BadRequests(Case):
    """What is wrong in itself is answered, and the connection goes on."""

    async def test_json(self):
        room = '"room":"r"'
        wrong = [
            ('{"type":"dance","id":7,"room":"r"}', {"id": 7, "room": "r"}),
            ('{"id":7}', {"id": 7}),
            ('{"type":"join","id":7}', {"id": 7}),
            ('{"type":"join","id":null,"room":"r"}', {}),
            ('{"type":"join","id":"7","room":"r"}', {}),
            ('{"type":"ping","id":1.0}', {}),
            ('{"type":"ping","id":1e2}', {}),
            ('{"type":"ping","id":-1}', {}),
            ('{"type":"ping","id":9007199254740992}', {}),
            ('{"type":"join","id":7,"room":"r","room":"r"}', {"id": 7}),
            ('{"type":"join","id":7,"room":7}', {"id": 7}),
            ('{"type":"join","id":7,"room":""}', {"id": 7}),
            ('{"type":"join","id":7,"room":" r"}', {"id": 7}),
            ('{"type":"join","id":7,"room":"r\\u00a0"}', {"id": 7}),
            ('{"type":"join","id":7,"room":"a\\u0085b"}', {"id": 7}),
            ('{"type":"join","id":7,"room":"r","metadata":[]}', {"id": 7}),
            ('{"type":"refresh","id":7}', {"id": 7}),
            ('{"type":"send",%s,"lane":"signal","seq":1}' % room, {"seq": 1, "lane": "signal"}),
            ('{"type":"send",%s,"lane":"loud","seq":1,"body":1}' % room, {"seq": 1, "room": "r"}),
            ('{"type":"send",%s,"lane":"signal","seq":0,"body":1}' % room, {"lane": "signal"}),
            ('{"type":"ephemeral",%s}' % room, {"room": "r"}),
            ('{"type":"lane","lane":"signal"}', {}),
            ('{"type":"welcome"}', {}),
        ]
        for transport in ("wt", "ws"):
            member = await self.greeted((transport, "json"))
            for text, reference in wrong:
                with self.subTest(transport=transport, text=text):
                    await member.send_bytes(text.encode())
                    error = await member.refused("bad_request")
                    del error["type"], error["code"], error["message"]
                    for name, value in reference.items():
                        self.assertEqual(error.get(name), value)
            await member.answers()

    async def test_bincode(self):
        wrong = [
            b"\x63",  # variant 99
            b"\x0a\xfd\0\0\0\0\0\0\x20\0",  # ping, id 2^53
            b"\x01\x07",  # lane 7
            b"\x04\x01r\x05\x01\0\x011",  # send on lane 5
            b"\x04\x01r\x00\x01\0\x01{",  # send with a body that is no JSON
            b"\x02\x07\x01r\x01\x02[]",  # join, metadata not an object
        ]
        for transport in ("wt", "ws"):
            member = await self.greeted((transport, "bincode"))
            for payload in wrong:
                with self.subTest(transport=transport, payload=payload):
                    await member.send_bytes(payload)
                    await member.refused("bad_request")
            await member.answers()

    async def test_what_a_reader_has_to_accept(self):
        right = [
            b' \t\r\n{ "id" : 5 , "type" : "ping" } \n',
            b'{"unknown":{"deep":[1,{}]},"id":5,"token":3,"type":"ping","room":[]}',
            b'{"type":"ping","id":5,"unknown":1,"unknown":2}',
            b'{"\\u0074ype":"\\u0070ing","id":5}',
        ]
        member = await self.greeted(("ws", "json"))
        for payload in right:
            with self.subTest(payload=payload):
                await member.send_bytes(payload)
                await member.expect("pong", id=5)

    async def test_what_a_bincode_reader_has_to_accept(self):
        right = [
            b"\x0a\x05\x00\x01\x02",  # bytes behind the last field
            b"\x0a\xfb\x05\x00",  # longer integers than needed
            b"\x0a\xfd\x05" + bytes(7),
            b"\xfc\x0a\0\0\0\x05",
        ]
        member = await self.greeted(("ws", "bincode"))
        for payload in right:
            with self.subTest(payload=payload):
                await member.send_bytes(payload)
                await member.expect("pong", id=5)

    @everywhere
    async def test_limits_of_fields(self):
        member = await self.greeted()
        room = self.room()
        number = await member.request("join", room="é" * 64 + "x")
        await member.refused("too_large", id=number)
        number = await member.request("join", room=room, metadata=Text('{"a":"%s"}' % ("x" * 4_089)))
        await member.refused("too_large", id=number)
        longest = Text('{"a":"%s"}' % ("x" * 4_088))
        self.assertEqual(len(longest), 4_096)
        await member.join("é" * 64, metadata=longest)
        await member.join(room)
        number = await member.request("update", room=room, metadata=Text('{"a":"%s"}' % ("x" * 4_089)))
        await member.refused("too_large", id=number)
        await member.send("ephemeral", room=room, body=Text('"%s"' % ("x" * 799)))
        await member.refused("too_large", room=room)
        await member.answers()

    @everywhere
    async def test_nesting(self):
        member = await self.greeted()
        room = self.room()
        await member.join(room)

        def nested(depth):
            return Text("[" * depth + "]" * depth)

        await member.send("send", room=room, lane="signal", seq=1, body=nested(65))
        await member.refused("bad_request", room=room, lane="signal", seq=1)
        mixed = Text('{"a":[' * 32 + "1" + "]}" * 32)
        await member.send("send", room=room, lane="signal", seq=1, body=mixed)
        await member.accepted(room, "signal", 1)
        await member.send("send", room=room, lane="bulk", seq=1, body=nested(64))
        await member.accepted(room, "bulk", 1)
        number = await member.request("update", room=room, metadata=Text('{"a":%s}' % nested(64)))
        await member.refused("bad_request", id=number)
        number = await member.request("update", room=room, metadata=Text('{"a":%s}' % nested(63)))
        await member.expect("ok", id=number)

    @everywhere
    async def test_too_many_rooms(self):
        member = await self.greeted()
        for number in range(64):
            await member.join(f"{self.room()} {number}")
        number = await member.request("join", room=self.room())
        await member.refused("too_many_rooms", id=number)
        number = await member.request("leave", room=f"{self.room()} 0")
        await member.expect("ok", id=number)
        await member.join(self.room())


class Deadlines(Case):
    settings = ("hello_timeout_ms=300",)

    @everywhere
    async def test_no_hello(self):
        member = await self.open()
        await member.cut(4503)

    async def test_no_bulk_stream(self):
        member = await self.open(("wt", "json"), streams=False)
        member.signal = member.open_stream()
        await member.hello()
        await member.answers()
        await member.close_code(4503)

    async def test_no_stream_at_all(self):
        member = await self.open(("wt", "json"), streams=False)
        self.assertIn(await member.closed(), (4503, None))


class Draining(unittest.IsolatedAsyncioTestCase):
    async def test_everybody_is_told_and_then_closed(self):
        gateway = Gateway("drain_timeout_ms=500")
        members = [
            await WebTransport.open(gateway, "bincode"),
            await WebSocket.open(gateway, "json", tls=True),
        ]
        for member in members:
            await member.hello()
        stopped = asyncio.create_task(asyncio.to_thread(gateway.stop))
        for member in members:
            draining = await member.expect("draining")
            self.assertLessEqual(draining["reconnect_in"], 500)
        for member in members:
            await member.close_code(4000)
            await member.abandon()
        self.assertEqual(await stopped, [])
