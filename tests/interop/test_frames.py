"""Section "WebSocket": one message is one message, however its frames come."""

from bincode import Text
from case import Case


class Messages(Case):
    async def test_a_message_in_fragments(self):
        for transport in ("ws", "wss"):
            for codec in ("json", "bincode"):
                member = await self.greeted((transport, codec))
                payload = member.encode({"type": "ping", "id": 77})
                parts = [payload[at : at + 1] for at in range(len(payload))]
                if codec == "json":
                    parts = [part.decode() for part in parts]
                await member.socket.send(parts)
                await member.expect("pong", id=77)

    async def test_pings_are_answered_between_fragments(self):
        member = await self.greeted(("ws", "json"))

        async def parts():
            yield '{"type":"ping"'
            answered = await member.socket.ping()
            await answered
            yield ',"id":5}'

        await member.socket.send(parts())
        await member.expect("pong", id=5)

    async def test_an_ephemeral_message_goes_either_way(self):
        one, other = [await self.greeted(("wss", codec)) for codec in ("json", "bincode")]
        for member in (one, other):
            await member.join(self.room())
        await one.expect("member_joined")
        await one.send("ephemeral", room=self.room(), body=Text("[ 1 ]"))
        self.assertEqual((await other.next("ephemeral"))["body"], "[ 1 ]")

    async def test_a_close_frame_leaves_the_session_alive(self):
        one, other = [await self.greeted(("ws", "json")) for _ in range(2)]
        for member in (one, other):
            await member.join(self.room())
        await one.expect("member_joined")
        other.watches_presence = True
        await one.socket.close(1000)
        await other.expect("member_away", peer=one.peer)
