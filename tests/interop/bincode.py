"""The binary form, written from the tables in docs/protocol.md, section "Bincode".

Messages are dicts shaped like their JSON form. `body` and `metadata` are `Text`: JSON as it
was written.
"""

import struct


class Text(str):
    """JSON text, to be sent or received as it is."""


class Unreadable(Exception):
    """The bytes do not follow the tables."""


LANES = ["signal", "bulk"]
LEFT = ["left", "bye", "expired", "kicked"]
RESET = ["trimmed", "epoch", "unlisted", "ahead"]
LEVELS = ["good", "fair", "poor"]
ERRORS = [
    "bad_request",
    "unsupported_version",
    "unauthorized",
    "forbidden",
    "session_unknown",
    "not_a_member",
    "no_such_peer",
    "room_full",
    "too_many_rooms",
    "too_large",
    "rate_limited",
    "seq_gap",
    "unavailable",
    "internal",
]


def uint(number, wide=0):
    """`wide` asks for a longer form than needed: 1, 2 or 3 for the tags fb, fc and fd."""
    if number <= 250 and wide == 0:
        return bytes([number])
    for at, (tag, layout) in enumerate([(0xFB, "<H"), (0xFC, "<I"), (0xFD, "<Q")], start=1):
        if number < 1 << 8 * struct.calcsize(layout) and wide <= at:
            return bytes([tag]) + struct.pack(layout, number)
    raise ValueError(number)


def text(value):
    data = value.encode()
    return uint(len(data)) + data


def optional(write, value):
    return b"\0" if value is None else b"\1" + write(value)


def lane(name):
    return uint(LANES.index(name))


def resume(value):
    rooms = value.get("rooms", {})
    out = text(value["session"]) + text(value["secret"]) + uint(len(rooms))
    for name, had in rooms.items():
        out += text(name) + text(had["epoch"]) + uint(had["signal"]) + uint(had["bulk"])
    return out


# Type, then its fields: name, how it is written, whether it may be absent.
CLIENT = [
    ("hello", [("version", uint, 0), ("token", text, 1), ("agent", text, 1), ("resume", resume, 1)]),
    ("lane", [("lane", lane, 0)]),
    ("join", [("id", uint, 0), ("room", text, 0), ("metadata", text, 1)]),
    ("leave", [("id", uint, 0), ("room", text, 0)]),
    (
        "send",
        [("room", text, 0), ("lane", lane, 0), ("seq", uint, 0), ("to", text, 1), ("body", text, 0)],
    ),
    ("ephemeral", [("room", text, 0), ("to", text, 1), ("body", text, 0)]),
    ("update", [("id", uint, 0), ("room", text, 0), ("metadata", text, 0)]),
    ("members", [("id", uint, 0), ("room", text, 0)]),
    ("ice", [("id", uint, 0)]),
    ("refresh", [("id", uint, 0), ("token", text, 0)]),
    ("ping", [("id", uint, 0)]),
    ("bye", []),
]


def encode(message):
    for number, (name, fields) in enumerate(CLIENT):
        if name == message["type"]:
            out = uint(number)
            for field, write, may_be_absent in fields:
                value = message.get(field)
                out += optional(write, value) if may_be_absent else write(value)
            return out
    raise ValueError(message["type"])


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, count):
        if len(self.data) < count:
            raise Unreadable("ends early")
        head, self.data = self.data[:count], self.data[count:]
        return head

    def uint(self):
        first = self.take(1)[0]
        if first <= 250:
            return first
        layouts = {0xFB: "<H", 0xFC: "<I", 0xFD: "<Q"}
        if first not in layouts:
            raise Unreadable(f"tag {first:#x}")
        layout = layouts[first]
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def bool(self):
        byte = self.take(1)[0]
        if byte > 1:
            raise Unreadable(f"bool {byte:#x}")
        return byte == 1

    def f64(self):
        return struct.unpack("<d", self.take(8))[0]

    def text(self):
        return self.take(self.uint()).decode()

    def json(self):
        return Text(self.text())

    def optional(self, read):
        return read() if self.bool() else None

    def items(self, read):
        return [read() for _ in range(self.uint())]

    def word(self, words):
        number = self.uint()
        return words[number] if number < len(words) else f"number {number}"

    def lane(self):
        return self.word(LANES)

    def seq(self):
        return {"signal": self.uint(), "bulk": self.uint()}

    def member(self):
        return {
            "peer": self.text(),
            "user": self.optional(self.text),
            "metadata": self.json(),
            "since": self.uint(),
            "away": self.bool(),
        }

    def members(self):
        return self.items(self.member)

    def server(self):
        server = {
            "urls": self.items(self.text),
            "username": self.optional(self.text),
            "credential": self.optional(self.text),
        }
        return {name: value for name, value in server.items() if value is not None}

    def rooms(self):
        return dict(self.items(lambda: (self.text(), {"seq": self.seq()})))

    def limits(self):
        names = ["message_bytes", "metadata_bytes", "ephemeral_bytes", "room_bytes", "rooms"]
        return {name: self.uint() for name in names}


R = Reader
ENTRY = [("room", R.text), ("epoch", R.text), ("offset", R.uint)]
ON_LANE = [("room", R.text), ("lane", R.lane), ("epoch", R.text)]
SNAPSHOT = [("signal", R.uint), ("bulk", R.uint), ("seq", R.seq), ("members", R.members)]


def maybe(read):
    return lambda reader: reader.optional(lambda: read(reader))


def of(words):
    return lambda reader: reader.word(words)


GATEWAY = [
    (
        "welcome",
        [
            ("session", R.text),
            ("secret", R.text),
            ("peer", R.text),
            ("user", maybe(R.text)),
            ("resumed", R.bool),
            ("rooms", R.rooms),
            ("lost", lambda r: r.items(r.text)),
            ("heartbeat", R.uint),
            ("resume_window", R.uint),
            ("limits", R.limits),
        ],
    ),
    ("joined", [("id", R.uint), ("room", R.text), ("epoch", R.text), *SNAPSHOT]),
    ("accepted", [*ON_LANE, ("seq", R.uint), ("offset", R.uint)]),
    (
        "member_joined",
        [*ENTRY, ("peer", R.text), ("user", maybe(R.text)), ("metadata", R.json)],
    ),
    ("member_updated", [*ENTRY, ("peer", R.text), ("metadata", R.json)]),
    ("member_left", [*ENTRY, ("peer", R.text), ("reason", of(LEFT))]),
    ("member_away", [*ENTRY, ("peer", R.text)]),
    ("member_back", [*ENTRY, ("peer", R.text)]),
    (
        "message",
        [*ON_LANE, ("offset", R.uint), ("from", R.text), ("to", maybe(R.text)), ("body", R.json)],
    ),
    ("position", [*ON_LANE, ("offset", R.uint), ("start", R.bool)]),
    ("ephemeral", [("room", R.text), ("from", R.text), ("body", R.json)]),
    ("reset", [("room", R.text), ("reason", of(RESET)), ("epoch", R.text), *SNAPSHOT]),
    (
        "members",
        [
            ("id", R.uint),
            ("room", R.text),
            ("epoch", R.text),
            ("signal", R.uint),
            ("members", R.members),
        ],
    ),
    ("quality", [("rtt", R.f64), ("jitter", R.f64), ("loss", R.f64), ("level", of(LEVELS))]),
    ("moved", []),
    ("expiring", [("in", R.uint)]),
    ("draining", [("reconnect_in", R.uint)]),
    ("ok", [("id", R.uint)]),
    ("pong", [("id", R.uint)]),
    ("ice", [("id", R.uint), ("servers", lambda r: r.items(r.server)), ("ttl", R.uint)]),
    (
        "error",
        [
            ("code", of(ERRORS)),
            ("message", R.text),
            ("id", maybe(R.uint)),
            ("room", maybe(R.text)),
            ("lane", maybe(R.lane)),
            ("seq", maybe(R.uint)),
            ("retry_after", maybe(R.uint)),
            ("expected", maybe(R.uint)),
        ],
    ),
    ("close", [("code", R.uint), ("reason", R.text), ("retry_after", maybe(R.uint))]),
]


def decode(data):
    reader = Reader(data)
    number = reader.uint()
    if number >= len(GATEWAY):
        raise Unreadable(f"variant {number}")
    name, fields = GATEWAY[number]
    message = {"type": name}
    for field, read in fields:
        value = read(reader)
        # What may be absent is absent in JSON too; only `user` is written as null.
        if value is not None or field == "user":
            message[field] = value
    return message
