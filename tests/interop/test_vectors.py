"""This independent codec against the project's vectors: the document's tables and the vectors
say the same."""

import json
import unittest

import bincode
import jsontext
from bincode import Text
from case import Case
from gateway import ROOT

VECTORS = json.loads((ROOT / "protocol/vectors/messages.json").read_text(encoding="utf-8"))


def verbatim(value):
    """Metadata inside lists too, so that both codecs' readings can be compared."""
    if isinstance(value, dict):
        return {name: verbatim(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [verbatim(inner) for inner in value]
    return json.loads(value) if isinstance(value, Text) else value


class Vectors(unittest.TestCase):
    def of(self, direction):
        found = [vector for vector in VECTORS if vector["direction"] == direction]
        self.assertGreater(len(found), 10)
        return found

    def test_our_messages_have_the_bytes_of_the_vectors(self):
        for vector in self.of("client"):
            with self.subTest(vector["name"]):
                message = jsontext.decode(vector["json"])
                self.assertEqual(bincode.encode(message).hex(), vector["bincode"])

    def test_the_gateways_messages_read_the_same_in_both_codecs(self):
        for vector in self.of("server"):
            with self.subTest(vector["name"]):
                binary = bincode.decode(bytes.fromhex(vector["bincode"]))
                text = jsontext.decode(vector["json"])
                if not binary.get("start", True):
                    del binary["start"]
                self.assertEqual(verbatim(binary), verbatim(text))
                if "body" in text:
                    self.assertEqual(binary["body"], text["body"])


class AtTheGateway(Case):
    """The vectors of what is refused and of what has to be read, sent to a gateway."""

    def of(self, name, codec):
        path = ROOT / f"protocol/vectors/{name}.json"
        for vector in json.loads(path.read_text(encoding="utf-8")):
            if vector["direction"] == "client" and vector["codec"] == codec:
                hexed = vector.get("hex")
                payload = bytes.fromhex(hexed) if hexed is not None else vector["text"].encode()
                yield vector, payload

    async def test_refusals(self):
        for codec in ("json", "bincode"):
            for transport in ("wt", "ws"):
                vectors = list(self.of("refusals", codec))
                self.assertGreater(len(vectors), 5)
                for vector, payload in vectors:
                    if transport == "ws" and codec == "json" and not is_utf_8(payload):
                        # A text message could not carry it.
                        continue
                    with self.subTest(vector["name"], codec=codec, transport=transport):
                        await self.refuses((transport, codec), vector, payload)

    async def refuses(self, way, vector, payload):
        member = await self.greeted(way)
        await member.send_bytes(payload)
        if vector["outcome"] == "unparseable":
            await member.close_code(4502)
            return
        reference = vector.get("reference") or {}
        error = await member.refused(vector["outcome"], reference.get("lane", "signal"))
        about = {name: error[name] for name in ("id", "room", "lane", "seq") if name in error}
        self.assertEqual(about, reference)
        await member.answers()


def is_utf_8(payload):
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
