"""What tests do with a connection, whatever its transport and codec."""

import asyncio
import itertools

import bincode
import jsontext
from bincode import Text

DEADLINE_S = 10


class Ended(Exception):
    """The connection ended while something was awaited."""


class Member:
    """One connection. A transport's class adds `send_bytes`, `closed` and `abandon`.

    What comes in is sorted by lane, so that a test reads the same on one stream and on two.
    """

    def __init__(self, codec):
        self.codec = codec
        self._inbox = {lane: asyncio.Queue() for lane in ("signal", "bulk", "ephemeral")}
        self._ids = itertools.count(1)
        self._seqs = {}
        self.welcome = None
        # Whether it matters who is away: on a busy machine anybody may be for a moment.
        self.watches_presence = False

    @property
    def peer(self):
        return self.welcome["peer"]

    def encode(self, message):
        if self.codec == "json":
            return jsontext.encode(message).encode()
        return bincode.encode(message)

    def arrived(self, payload):
        """Sorts one message from the gateway."""
        message = (
            jsontext.decode(payload.decode()) if self.codec == "json" else bincode.decode(payload)
        )
        kind = message["type"]
        lane = "ephemeral" if kind == "ephemeral" else message.get("lane", "signal")
        self._inbox[lane].put_nowait(message)

    def ended(self):
        """Nothing more will come; says so to whoever waits."""
        for queue in self._inbox.values():
            queue.put_nowait(None)

    async def send(self, kind, **fields):
        fields = {"to" if name == "to" else name: value for name, value in fields.items()}
        for name in ("body", "metadata"):
            if name in fields and not isinstance(fields[name], (Text, type(None))):
                raise TypeError(f"{name} must be Text")
        message = {"type": kind, **fields}
        bulk = kind in ("send", "lane") and message.get("lane") == "bulk"
        await self.send_bytes(self.encode(message), "bulk" if bulk else "signal")

    async def next(self, lane="signal"):
        """The next message on a lane, without what comes when it likes."""
        while True:
            try:
                message = await asyncio.wait_for(self._inbox[lane].get(), DEADLINE_S)
            except asyncio.TimeoutError:
                raise AssertionError(f"nothing came on the {lane} lane") from None
            if message is None:
                self._inbox[lane].put_nowait(None)
                raise Ended(f"on the {lane} lane")
            passed_over = {"quality"}
            if not self.watches_presence:
                passed_over |= {"member_away", "member_back"}
            if message["type"] not in passed_over:
                return message

    async def expect(self, kind, lane="signal", **fields):
        """The next message must be this one."""
        message = await self.next(lane)
        wanted = {"type": kind, **{name.rstrip("_"): value for name, value in fields.items()}}
        seen = {name: message.get(name) for name in wanted}
        assert seen == wanted, f"wanted {wanted}, got {message}"
        return message

    async def refused(self, code, lane="signal", **fields):
        return await self.expect("error", lane, code=code, **fields)

    async def request(self, kind, **fields):
        """Sends with the next id; returns that id."""
        number = next(self._ids)
        await self.send(kind, id=number, **fields)
        return number

    async def hello(self, **fields):
        await self.send("hello", version=1, **fields)
        self.welcome = await self.expect("welcome", resumed=False)
        return self

    async def join(self, room, **fields):
        """Joins; takes the answer and the mark in the bulk lane."""
        number = await self.request("join", room=room, **fields)
        joined = await self.expect("joined", id=number, room=room)
        mark = {"epoch": joined["epoch"], "offset": joined["bulk"]}
        await self.expect("position", "bulk", room=room, start=True, **mark)
        return joined

    async def post(self, room, lane, body, **fields):
        """A `send` with the next `seq`, which is returned."""
        seq = self._seqs[room, lane] = self._seqs.get((room, lane), 0) + 1
        await self.send("send", room=room, lane=lane, seq=seq, body=Text(body), **fields)
        return seq

    async def accepted(self, room, lane, seq):
        """Waits until everything up to `seq` is accepted; returns the offset."""
        while True:
            message = await self.expect("accepted", lane, room=room)
            assert message["seq"] <= seq, message
            if message["seq"] == seq:
                return message["offset"]

    async def answers(self):
        """The connection is alive, and nothing else was waiting on the signal lane."""
        number = await self.request("ping")
        await self.expect("pong", id=number)

    async def close_code(self, code, *, error=None):
        """The connection ends with `close`."""
        if error is not None:
            await self.refused(error)
        await self.expect("close", code=code)

    async def cut(self, code):
        """The connection ends before the gateway has a stream it could say `close` on."""
        try:
            await self.expect("close", code=code)
        except Ended:
            pass
        assert await self.closed() in (code, None), "the transport says something else"

    async def bye(self):
        """Says `bye`; the transport closes with the same code as the last message."""
        await self.send("bye")
        await self.close_code(4500)
        assert await self.closed() == 4500, "the transport says something else"
