"""A member on a WebSocket, by the `websockets` library."""

import asyncio
import ssl

import websockets
from websockets.asyncio.client import connect

from member import DEADLINE_S, Member


def any_certificate():
    """The certificate is self-made; `test_connecting` holds it against the announced hash."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class WebSocket(Member):
    def __init__(self, socket, codec):
        super().__init__(codec)
        self.socket = socket
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, gateway, codec, *, tls=False, path="/v1/ws", offer=None, **options):
        scheme, port = ("wss", gateway.port) if tls else ("ws", gateway.http_port)
        socket = await connect(
            f"{scheme}://{gateway.host}:{port}{path}",
            subprotocols=[f"handover.v1.{codec}"] if offer is None else offer,
            ssl=any_certificate() if tls else None,
            open_timeout=DEADLINE_S,
            close_timeout=DEADLINE_S,
            max_size=1 << 20,
            proxy=None,
            **options,
        )
        return cls(socket, codec)

    async def _read(self):
        try:
            async for message in self.socket:
                assert isinstance(message, str) == (self.codec == "json"), "the other frame type"
                self.arrived(message.encode() if isinstance(message, str) else message)
        except websockets.ConnectionClosedError:
            pass
        finally:
            self.ended()

    async def send_bytes(self, payload, lane="signal"):
        del lane
        await self.socket.send(payload.decode() if self.codec == "json" else payload)

    async def closed(self):
        """The code of the close frame; 1006 if the connection just ended."""
        await asyncio.wait_for(self.socket.wait_closed(), DEADLINE_S)
        return self.socket.close_code

    async def abandon(self):
        await self.socket.close()
        await self._reader
