"""Section "Rooms": two and three members across transports and codecs."""

import json

from bincode import Text
from case import Case, everywhere

# JSON texts that a reader and writer of values would change.
BODIES = [
    '{"a" :  1 ,\t"b":[ ] }',
    '"\\u0041\\/\\u00e9 é \\ud83d\\ude00"',
    '"\\ud800"',
    "0.10",
    "1E+2",
    "-0",
    "123456789012345678901234567890.00000",
    '{"k":1,"k":2,"":null}',
    "null",
    "true",
    '""',
    '[1,[2,[3,{"x":[]}]]]',
    '{"type":"bye","lane":"bulk","room":"other"}',
    '{\n  "sdp": "v=0\\r\\n"\n}',
]


class Two(Case):
    """One member on each way, the other one on WebTransport with bincode."""

    async def both(self):
        room = self.room()
        one = await self.greeted()
        other = await self.greeted(("wt", "bincode"))
        await one.join(room, metadata=Text('{"name":"one"}'))
        joined = await other.join(room, metadata=Text('{"name":"other"}'))
        event = await one.expect("member_joined", room=room, peer=other.peer, user=None)
        self.assertEqual(event["offset"], joined["signal"])
        self.assertEqual(event["epoch"], joined["epoch"])
        self.assertEqual(json.loads(event["metadata"]), {"name": "other"})
        return room, one, other

    @everywhere
    async def test_the_list_of_members(self):
        room, one, other = await self.both()
        for asking in (one, other):
            number = await asking.request("members", room=room)
            members = (await asking.expect("members", id=number, room=room))["members"]
            self.assertEqual([member["peer"] for member in members], [one.peer, other.peer])
            self.assertEqual([member["since"] for member in members], [1, 2])
            self.assertEqual([member["away"] for member in members], [False, False])
            names = [json.loads(member["metadata"])["name"] for member in members]
            self.assertEqual(names, ["one", "other"])

    @everywhere
    async def test_messages_both_ways_on_both_lanes(self):
        room, *members = await self.both()
        for lane in ("signal", "bulk"):
            for sender, receiver in (members, reversed(members)):
                seq = await sender.post(room, lane, '{"from": "me"}')
                offset = await sender.accepted(room, lane, seq)
                message = await receiver.expect("message", lane, room=room, offset=offset)
                self.assertEqual(message["from"], sender.peer)
                self.assertEqual(message["body"], '{"from": "me"}')
                self.assertNotIn("to", message)

    @everywhere
    async def test_bodies_arrive_byte_for_byte(self):
        room, *members = await self.both()
        for sender, receiver in (members, reversed(members)):
            for lane in ("signal", "bulk"):
                for body in BODIES:
                    with self.subTest(lane=lane, body=body):
                        await sender.post(room, lane, body)
                        message = await receiver.expect("message", lane)
                        self.assertEqual(message["body"], body)
                await sender.accepted(room, lane, len(BODIES))

    @everywhere
    async def test_space_around_a_body_is_not_part_of_it(self):
        room, one, other = await self.both()
        await one.post(room, "signal", " \n[ 1 ]\t ")
        self.assertEqual((await other.expect("message"))["body"], "[ 1 ]")

    @everywhere
    async def test_ephemeral_both_ways(self):
        room, *members = await self.both()
        for sender, receiver in (members, reversed(members)):
            body = Text('{"x": 1.50}')
            await sender.send("ephemeral", room=room, body=body)
            message = await receiver.expect("ephemeral", "ephemeral", room=room)
            self.assertEqual((message["from"], message["body"]), (sender.peer, body))
            await sender.send("ephemeral", room=room, to=receiver.peer, body=Text("2"))
            message = await receiver.expect("ephemeral", "ephemeral", room=room)
            self.assertEqual(message["body"], "2")

    @everywhere
    async def test_updates_and_leaving(self):
        room, one, other = await self.both()
        number = await one.request("update", room=room, metadata=Text('{"name":"new"}'))
        await one.expect("ok", id=number)
        event = await other.expect("member_updated", room=room, peer=one.peer)
        self.assertEqual(json.loads(event["metadata"]), {"name": "new"})
        number = await one.request("leave", room=room)
        await one.expect("ok", id=number)
        await other.expect("member_left", room=room, peer=one.peer, reason="left")
        number = await one.request("leave", room=room)
        await one.expect("ok", id=number)
        for request in ("members", "update"):
            fields = {"metadata": Text("{}")} if request == "update" else {}
            number = await one.request(request, room=room, **fields)
            await one.refused("not_a_member", id=number)
        await one.join(room)
        event = await other.expect("member_joined", peer=one.peer)
        self.assertEqual(event["metadata"], "{}")
        await one.bye()
        await other.expect("member_left", room=room, peer=one.peer, reason="bye")

    @everywhere
    async def test_joining_again_changes_nothing(self):
        room, one, other = await self.both()
        number = await one.request("join", room=room, metadata=Text('{"name":"again"}'))
        joined = await one.expect("joined", id=number)
        self.assertEqual(json.loads(joined["members"][0]["metadata"]), {"name": "one"})
        await one.post(room, "bulk", "1")
        # No mark in between: it would stand before the `accepted`.
        await one.accepted(room, "bulk", 1)
        await other.expect("message", "bulk")
        await other.answers()

    @everywhere
    async def test_a_connection_lost_without_bye_is_away(self):
        room, one, other = await self.both()
        other.watches_presence = True
        await one.abandon()
        event = await other.expect("member_away", room=room, peer=one.peer)
        number = await other.request("members", room=room)
        members = await other.expect("members", id=number, signal=event["offset"])
        self.assertEqual([member["away"] for member in members["members"]], [True, False])
        # To an away member: accepted.
        seq = await other.post(room, "signal", "1", to=one.peer)
        await other.accepted(room, "signal", seq)


class Three(Case):
    async def three(self):
        room = self.room()
        members = [await self.greeted(), await self.greeted(("ws", "json"))]
        members.append(await self.greeted(("wt", "json")))
        for at, member in enumerate(members):
            await member.join(room)
            for earlier in members[:at]:
                await earlier.expect("member_joined", peer=member.peer)
        return room, members

    @everywhere
    async def test_a_directed_message_is_for_two(self):
        room, (one, other, third) = await self.three()
        for lane in ("signal", "bulk"):
            await one.post(room, lane, '"for you"', to=other.peer)
            seq = await one.post(room, lane, '"for all"')
            last = await one.accepted(room, lane, seq)
            message = await other.expect("message", lane, offset=last - 1, to=other.peer)
            self.assertEqual(message["body"], '"for you"')
            await other.expect("message", lane, offset=last)
            message = await third.expect("message", lane, offset=last)
            self.assertEqual(message["body"], '"for all"')

    @everywhere
    async def test_position_carries_the_others_past_directed_messages(self):
        room, (one, other, third) = await self.three()
        start = await self.snapshot(one, room)
        lanes = ("signal", "bulk")
        for _ in range(200):
            for lane in lanes:
                seq = await one.post(room, lane, "1", to=other.peer)
        for lane in lanes:
            self.assertEqual(await one.accepted(room, lane, seq), start[lane] + 200)
            for _ in range(200):
                await other.expect("message", lane)
        for lane in lanes:
            had, end = start[lane], start[lane] + 200
            # The last of them comes within five seconds.
            while had < end:
                mark = await third.expect("position", lane, room=room)
                self.assertFalse(mark.get("start", False))
                self.assertLess(had, mark["offset"])
                self.assertLessEqual(mark["offset"], had + 64)
                had = mark["offset"]
            self.assertEqual(had, end)

    async def snapshot(self, member, room):
        """The last offsets used, from a `join` that changes nothing."""
        number = await member.request("join", room=room)
        return await member.expect("joined", id=number)

    @everywhere
    async def test_everybody_sees_one_order(self):
        room, members = await self.three()
        for lane in ("signal", "bulk"):
            for turn in range(20):
                for at, member in enumerate(members):
                    await member.post(room, lane, f"[{at},{turn}]")
            seen = [[] for _ in members]
            for at, member in enumerate(members):
                own = 0
                while len(seen[at]) < 40 or own < 20:
                    message = await member.next(lane)
                    if message["type"] == "accepted":
                        own = message["seq"]
                    elif message["type"] == "message":
                        seen[at].append((message["offset"], message["body"]))
                offsets = [offset for offset, _ in seen[at]]
                self.assertEqual(offsets, sorted(set(offsets)))
            log = dict(seen[0]) | dict(seen[1])
            self.assertEqual(len(log), 60)
            for at, view in enumerate(seen):
                others = {k: v for k, v in log.items() if json.loads(v)[0] != at}
                self.assertEqual(dict(view), others)
            for sender in range(3):
                turns = [json.loads(log[k])[1] for k in sorted(log) if json.loads(log[k])[0] == sender]
                self.assertEqual(turns, list(range(20)))


class Sending(Case):
    async def member(self):
        room = self.room()
        member = await self.greeted()
        await member.join(room)
        return room, member

    @everywhere
    async def test_a_repeated_seq_is_applied_once(self):
        room, member = await self.member()
        other = await self.greeted(("ws", "json"))
        await other.join(room)
        await member.expect("member_joined")
        for seq in (1, 2):
            await member.send("send", room=room, lane="signal", seq=seq, body=Text(f"{seq}"))
        offset = await member.accepted(room, "signal", 2)
        await member.send("send", room=room, lane="signal", seq=1, body=Text('"again"'))
        await member.expect("accepted", room=room, lane="signal", seq=2, offset=offset)
        await member.send("send", room=room, lane="signal", seq=3, body=Text("3"))
        for body in ("1", "2", "3"):
            await other.expect("message", body=body)

    @everywhere
    async def test_a_refused_send_leaves_a_gap(self):
        room, member = await self.member()
        for lane in ("signal", "bulk"):
            sends = [("nobody", 1), (None, 2), (None, 3)]
            for to, seq in sends:
                await member.send("send", room=room, lane=lane, seq=seq, to=to, body=Text("1"))
            await member.refused("no_such_peer", lane, room=room, seq=1)
            await member.refused("seq_gap", lane, room=room, seq=2, expected=1)
            await member.refused("seq_gap", lane, room=room, seq=3, expected=1)
            for seq in (1, 2):
                await member.send("send", room=room, lane=lane, seq=seq, body=Text("1"))
            await member.accepted(room, lane, 2)

    @everywhere
    async def test_refusals_of_sends(self):
        room, member = await self.member()
        for lane in ("signal", "bulk"):
            wanted = {"lane": lane, "seq": 1}
            cases = [
                ("bad_request", room, member.peer),
                ("no_such_peer", room, "nobody"),
                ("no_such_peer", room, "no peer id!"),
                ("not_a_member", "elsewhere", None),
            ]
            for code, where, to in cases:
                await member.send("send", room=where, to=to, body=Text("1"), **wanted)
                await member.refused(code, lane, room=where, seq=1)
        await member.send("ephemeral", room="elsewhere", body=Text("1"))
        await member.refused("not_a_member", room="elsewhere")
        await member.send("ephemeral", room=room, to=member.peer, body=Text("1"))
        await member.refused("bad_request", room=room)
        await member.answers()

    @everywhere
    async def test_seq_goes_on_after_leaving_and_joining_again(self):
        room, member = await self.member()
        await member.post(room, "signal", "1")
        await member.accepted(room, "signal", 1)
        number = await member.request("leave", room=room)
        await member.expect("ok", id=number)
        joined = await member.join(room)
        self.assertEqual(joined["seq"], {"signal": 1, "bulk": 0})
        await member.post(room, "signal", "2")
        await member.accepted(room, "signal", 2)

    @everywhere
    async def test_room_names_are_compared_byte_for_byte(self):
        member = await self.greeted()
        own = self.room()
        # Composed and decomposed: the same letter, two rooms.
        names = [own + end for end in ("\u00e9", "e\u0301", "R", "r", "a b", "👩‍💻")]
        for name in [*names, own + "x" * (128 - len(own))]:
            joined = await member.join(name)
            self.assertEqual(joined["signal"], 1, name)
