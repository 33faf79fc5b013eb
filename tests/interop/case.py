"""The base of every test here: a gateway for the class, members closed behind each test."""

import unittest

from gateway import Gateway
from websocket import WebSocket
from webtransport import WebTransport

# Every way a client can come in: transport and codec.
WAYS = [
    (transport, codec) for transport in ("wt", "ws", "wss") for codec in ("json", "bincode")
]


def everywhere(test):
    """Makes one test of it for every way; it comes as `self.way`."""
    test.everywhere = True
    return test


class Case(unittest.IsolatedAsyncioTestCase):
    settings = ()
    way = ("wt", "json")

    def __init_subclass__(cls):
        for name, test in list(vars(cls).items()):
            if getattr(test, "everywhere", False):
                delattr(cls, name)
                for way in WAYS:
                    setattr(cls, f"{name}__{'_'.join(way)}", _on(test, way))

    @classmethod
    def setUpClass(cls):
        cls.gateway = Gateway(*cls.settings)

    @classmethod
    def tearDownClass(cls):
        errors = cls.gateway.stop()
        assert not errors, errors

    async def open(self, way=None, **options):
        """A connection that has said nothing yet."""
        transport, codec = self.way if way is None else way
        if transport == "wt":
            member = await WebTransport.open(self.gateway, codec, **options)
        else:
            member = await WebSocket.open(self.gateway, codec, tls=transport == "wss", **options)
        self.addAsyncCleanup(member.abandon)
        return member

    async def greeted(self, way=None):
        return await (await self.open(way)).hello()

    def room(self):
        """A room no other test is in."""
        return self.id().rsplit(".", 1)[-1]


def _on(test, way):
    async def run(self):
        self.way = way
        await test(self)

    run.__doc__ = test.__doc__
    return run
