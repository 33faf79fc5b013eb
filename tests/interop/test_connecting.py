"""Section "Connecting": addresses, identity, and refusals before there is a connection."""

import asyncio
import base64
import hashlib
import json
import socket
import ssl
from contextlib import AsyncExitStack, closing
from http.client import HTTPConnection

from cryptography.hazmat.primitives.serialization import Encoding
from websockets.exceptions import InvalidStatus

from case import Case
from websocket import WebSocket, any_certificate
from webtransport import Refused, WebTransport, dial


class Http(Case):
    def get(self, path, **headers):
        """Status and body from the plain-HTTP address."""
        plain = HTTPConnection(self.gateway.host, self.gateway.http_port, timeout=10)
        with closing(plain):
            plain.request("GET", path, headers=headers)
            answer = plain.getresponse()
            return answer.status, answer.read()

    async def test_identity_is_the_hash_of_the_certificate_on_both_transports(self):
        status, body = await asyncio.to_thread(self.get, "/v1/identity")
        identity = json.loads(body)
        self.assertEqual(status, 200)
        self.assertEqual(identity["algorithm"], "sha-256")
        self.assertEqual(identity["port"], self.gateway.port)
        self.assertEqual(identity["value"], self.gateway.hash)

        async with AsyncExitStack() as stack:
            http = await dial(self.gateway, stack)
            over_quic = http.certificate()
        raw = socket.create_connection((self.gateway.host, self.gateway.port))
        with any_certificate().wrap_socket(raw) as over_tls:
            der = over_tls.getpeercert(binary_form=True)
        self.assertEqual(over_quic.public_bytes(Encoding.DER), der)
        self.assertEqual(base64.b64encode(hashlib.sha256(der).digest()).decode(), identity["value"])
        self.assertEqual(int(over_quic.not_valid_after_utc.timestamp()), identity["expires"])
        lifetime = over_quic.not_valid_after_utc - over_quic.not_valid_before_utc
        self.assertLessEqual(lifetime.days, 14)

    async def test_unknown_path(self):
        status, _ = await asyncio.to_thread(self.get, "/v1/nothing")
        self.assertEqual(status, 404)

    async def test_a_request_that_is_no_handshake(self):
        status, _ = await asyncio.to_thread(self.get, "/v1/ws")
        self.assertEqual(status, 426)

    async def test_another_version_of_websocket(self):
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "12",
        }
        status, _ = await asyncio.to_thread(lambda: self.get("/v1/ws", **headers))
        self.assertEqual(status, 426)

    async def test_a_faulty_handshake(self):
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
        }
        status, _ = await asyncio.to_thread(lambda: self.get("/v1/ws", **headers))
        self.assertEqual(status, 400)


class OnWebSocket(Case):
    async def refused(self, **options):
        with self.assertRaises(InvalidStatus) as caught:
            await self.open(("ws", "json"), **options)
        return caught.exception.response

    async def test_unknown_path(self):
        self.assertEqual((await self.refused(path="/v1/nothing")).status_code, 404)

    async def test_only_unknown_sub_protocols(self):
        refusal = await self.refused(offer=["handover.v2.json", "chat"])
        self.assertEqual(refusal.status_code, 400)

    async def test_forbidden_origin(self):
        refusal = await self.refused(origin="https://elsewhere.example")
        self.assertEqual(refusal.status_code, 403)

    async def test_the_first_known_sub_protocol_decides(self):
        offers = [
            (["chat", "handover.v1.bincode", "handover.v1.json"], "bincode"),
            (["handover.v1.json", "handover.v1.bincode"], "json"),
        ]
        for offer, codec in offers:
            member = await self.open(("ws", codec), offer=offer)
            self.assertEqual(member.socket.subprotocol, f"handover.v1.{codec}")
            await member.hello()

    async def test_json_when_none_is_offered(self):
        for transport in ("ws", "wss"):
            member = await self.open((transport, "json"), offer=[])
            self.assertIsNone(member.socket.subprotocol)
            await member.hello()

    async def test_tls_1_2_and_1_3(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = any_certificate()
            context.minimum_version = context.maximum_version = version
            raw = socket.create_connection((self.gateway.host, self.gateway.port))
            with context.wrap_socket(raw) as secured:
                self.assertEqual(secured.version(), version.name.replace("_", "."))


class OnWebTransport(Case):
    async def status(self, **options):
        with self.assertRaises(Refused) as caught:
            await self.open(("wt", "json"), **options)
        return caught.exception.status

    async def test_unknown_path(self):
        self.assertEqual(await self.status(path="/v1/nothing"), 404)

    async def test_unknown_codec(self):
        self.assertEqual(await self.status(path="/v1/wt?codec=xml"), 404)

    async def test_only_unknown_sub_protocols(self):
        offer = [("wt-available-protocols", '"handover.v2.json", "chat"')]
        self.assertEqual(await self.status(path="/v1/wt", headers=offer), 404)

    async def test_forbidden_origin(self):
        origin = [("origin", "https://elsewhere.example")]
        self.assertEqual(await self.status(headers=origin), 403)

    async def test_sub_protocols_decide_over_the_query(self):
        offer = [("wt-available-protocols", '"chat", "handover.v1.bincode"')]
        member = await self.open(("wt", "bincode"), path="/v1/wt?codec=json", headers=offer)
        self.assertEqual(member.response[b"wt-protocol"], b'"handover.v1.bincode"')
        await member.hello()

    async def test_json_without_a_query(self):
        await (await self.open(("wt", "json"), path="/v1/wt")).hello()

    async def test_a_second_session_on_the_same_connection_is_not_had(self):
        member = await self.greeted(("wt", "json"))
        number = member.http.ask(f"{self.gateway.host}:{self.gateway.port}", "/v1/wt")
        await member.http.ping()
        # Long enough for an answer: the first session's requests come back meanwhile.
        for _ in range(20):
            await member.answers()
        response = member.http.responses[number]
        self.assertFalse(response.done() and response.result()[b":status"] == b"200")


class Capacity(Case):
    settings = ("limits.connections=2",)

    async def test_no_capacity_until_somebody_leaves(self):
        first = await self.greeted(("wt", "json"))
        second = await self.greeted(("ws", "json"))
        with self.assertRaises(Refused) as caught:
            await WebTransport.open(self.gateway)
        self.assertEqual(caught.exception.status, 429)
        with self.assertRaises(InvalidStatus) as caught:
            await WebSocket.open(self.gateway, "json")
        response = caught.exception.response
        self.assertEqual(response.status_code, 503)
        self.assertGreaterEqual(int(response.headers["retry-after"]), 1)

        await second.bye()
        await self.comes_in(("wt", "bincode"))
        await first.bye()
        await self.comes_in(("wss", "json"))

    async def comes_in(self, way):
        """A place is free again once the gateway has seen the connection out."""
        deadline = asyncio.get_running_loop().time() + 10
        while True:
            try:
                return await self.greeted(way)
            except (Refused, InvalidStatus):
                self.assertLess(asyncio.get_running_loop().time(), deadline)
