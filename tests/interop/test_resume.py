"""Section "Resume": a session goes on, whatever it comes back on."""

import uuid

from bincode import Text
from case import WAYS, Case, everywhere


class Resume(Case):
    async def pair(self):
        """A member to lose, with its room joined, and one that stays."""
        room = f"{self.room()} {uuid.uuid4()}"
        one = await self.greeted()
        other = await self.greeted(("ws", "json"))
        joined = await one.join(room)
        await other.join(room)
        event = await one.expect("member_joined", peer=other.peer)
        self.had = {"epoch": joined["epoch"], "signal": event["offset"], "bulk": joined["bulk"]}
        return room, one, other

    async def back(self, lost, rooms, way=None, **changed):
        """A new connection, on the next way of all, that goes on with the session of `lost`."""
        next_way = WAYS[(WAYS.index(self.way) + 1) % len(WAYS)] if way is None else way
        member = await self.open(next_way)
        known = {name: lost.welcome[name] for name in ("session", "secret")}
        resume = {**known, "rooms": rooms, **changed}
        await member.send("hello", version=1, resume=resume)
        return member

    async def resumed(self, lost, rooms, way=None):
        member = await self.back(lost, rooms, way)
        member.welcome = await member.expect("welcome", resumed=True, peer=lost.peer)
        return member

    @everywhere
    async def test_what_was_missed_is_replayed_and_then_it_is_live(self):
        room, one, other = await self.pair()
        await one.post(room, "signal", '"mine, answered"')
        offset = await one.accepted(room, "signal", 1)
        await other.expect("message")
        await one.abandon()
        for lane in ("signal", "bulk"):
            for number in range(5):
                seq = await other.post(room, lane, f"[ {number} ]")
            await other.accepted(room, lane, seq)
        again = await self.resumed(one, {room: {**self.had, "signal": offset}})
        self.assertEqual(again.welcome["rooms"], {room: {"seq": {"signal": 1, "bulk": 0}}})
        self.assertEqual(again.welcome["lost"], [])
        for lane in ("signal", "bulk"):
            for number in range(5):
                await again.expect("message", lane, body=f"[ {number} ]", from_=other.peer)
            seq = await other.post(room, lane, '"live"')
            await other.accepted(room, lane, seq)
            await again.expect("message", lane, body='"live"')
        # Sends go on from where they were.
        await again.send("send", room=room, lane="signal", seq=2, body=Text('"on"'))
        await again.accepted(room, "signal", 2)
        await other.expect("message", from_=one.peer, body='"on"')
        await other.answers()

    @everywhere
    async def test_a_send_repeated_after_a_resume_is_applied_once(self):
        room, one, other = await self.pair()
        await one.post(room, "signal", '"once"')
        offset = await one.accepted(room, "signal", 1)
        # As if the answer had not come.
        again = await self.resumed(one, {room: self.had})
        await again.expect("accepted", room=room, lane="signal", seq=1, offset=offset)
        await again.send("send", room=room, lane="signal", seq=1, body=Text('"once"'))
        await again.expect("accepted", room=room, lane="signal", seq=1, offset=offset)
        await other.expect("message", body='"once"')
        await other.answers()

    @everywhere
    async def test_the_later_hello_replaces_the_older_connection(self):
        room, one, other = await self.pair()
        again = await self.resumed(one, {room: self.had})
        await one.close_code(4504)
        await again.answers()
        await other.answers()

    @everywhere
    async def test_away_and_back_alternate(self):
        room, one, other = await self.pair()
        other.watches_presence = True
        await one.abandon()
        away = await other.expect("member_away", room=room, peer=one.peer)
        again = await self.resumed(one, {room: self.had})
        back = await other.expect("member_back", room=room, peer=one.peer)
        self.assertEqual(back["offset"], away["offset"] + 1)
        await other.post(room, "signal", "1")
        await again.expect("message", body="1", offset=back["offset"] + 1)

    @everywhere
    async def test_rooms_that_cannot_go_on_are_reset(self):
        room, one, other = await self.pair()
        await other.post(room, "bulk", "1")
        await other.accepted(room, "bulk", 1)
        cases = [
            ({}, "unlisted"),
            ({room: {**self.had, "signal": 99}}, "ahead"),
            ({room: {**self.had, "bulk": 99}}, "ahead"),
            ({room: {**self.had, "epoch": "another"}}, "epoch"),
        ]
        for rooms, reason in cases:
            with self.subTest(reason=reason):
                again = await self.resumed(one, rooms)
                reset = await again.expect("reset", room=room, reason=reason)
                self.assertEqual((reset["epoch"], reset["bulk"]), (self.had["epoch"], 1))
                peers = [member["peer"] for member in reset["members"]]
                self.assertEqual(peers, [one.peer, other.peer])
                mark = {"epoch": reset["epoch"], "offset": 1}
                await again.expect("position", "bulk", room=room, start=True, **mark)

    @everywhere
    async def test_a_room_it_is_not_in_is_lost(self):
        room, one, other = await self.pair()
        again = await self.resumed(one, {room: self.had, "never in": self.had})
        self.assertEqual(again.welcome["lost"], ["never in"])
        await again.answers()

    @everywhere
    async def test_a_wrong_secret_is_an_unknown_session(self):
        room, one, other = await self.pair()
        stranger = await self.back(one, {room: self.had}, secret="x" * len(one.welcome["secret"]))
        await stranger.refused("session_unknown")
        await stranger.hello()
        self.assertNotEqual(stranger.peer, one.peer)
        # The session itself is untouched.
        await one.answers()

    @everywhere
    async def test_after_bye_there_is_nothing_to_resume(self):
        room, one, other = await self.pair()
        await one.send("bye")
        await one.close_code(4500)
        await other.expect("member_left", peer=one.peer, reason="bye")
        again = await self.back(one, {room: self.had})
        await again.refused("session_unknown")

    @everywhere
    async def test_directed_entries_are_replayed_to_whom_they_are_for(self):
        room, one, other = await self.pair()
        third = await self.greeted(("ws", "json"))
        await third.join(room)
        self.had["signal"] = (await one.expect("member_joined"))["offset"]
        await one.abandon()
        await third.post(room, "signal", '"for the lost one"', to=one.peer)
        seq = await third.post(room, "signal", '"for the other"', to=other.peer)
        last = await third.accepted(room, "signal", seq)
        again = await self.resumed(one, {room: self.had})
        await again.expect("message", to=one.peer, body='"for the lost one"', offset=last - 1)
        seq = await third.post(room, "signal", '"for all"')
        await again.expect("message", body='"for all"', offset=last + 1)


class Window(Case):
    settings = ("resume_window_ms=300",)

    @everywhere
    async def test_a_session_ends_with_its_resume_window(self):
        room = self.room()
        one = await self.greeted()
        other = await self.greeted(("ws", "json"))
        self.assertEqual(one.welcome["resume_window"], 300)
        await one.join(room)
        await other.join(room)
        await one.abandon()
        await other.expect("member_left", room=room, peer=one.peer, reason="expired")
        late = await self.open()
        known = {name: one.welcome[name] for name in ("session", "secret")}
        await late.send("hello", version=1, resume={**known, "rooms": {}})
        await late.refused("session_unknown")
        await late.hello()
