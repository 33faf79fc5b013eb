"""A member on WebTransport, by aioquic's HTTP/3."""

import asyncio
import ssl
from contextlib import AsyncExitStack

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DatagramReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

import varint
from member import DEADLINE_S, Member


class Refused(Exception):
    """The session was answered with another status than 200."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


class Stream:
    """One stream: what came on it, cut into frames."""

    def __init__(self, number):
        self.number = number
        self.buffer = b""
        self.frames = asyncio.Queue()
        # Set once the other side wants no more of what we send, or has no more to send.
        self.over = asyncio.Event()

    def feed(self, data):
        self.buffer += data
        while (head := varint.read(self.buffer)) is not None:
            length, size = head
            if len(self.buffer) < size + length:
                break
            self.frames.put_nowait(self.buffer[size : size + length])
            self.buffer = self.buffer[size + length :]


class Http3(QuicConnectionProtocol):
    """A QUIC connection with HTTP/3 and WebTransport on it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic, enable_webtransport=True)
        self.streams = {}
        self.responses = {}
        self.on_datagram = lambda data: None
        self.on_end = []
        self.terminated = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            if not self.terminated.done():
                self.terminated.set_result(event)
            for ended in self.on_end:
                ended()
        stream = self.streams.get(getattr(event, "stream_id", None))
        if stream is None:
            for http in self.http.handle_event(event):
                self._http_event(http)
        elif isinstance(event, StreamDataReceived):
            # aioquic would read HTTP frames on a bidirectional stream that we opened.
            stream.feed(event.data)
            if event.end_stream:
                stream.over.set()
        elif isinstance(event, (StreamReset, StopSendingReceived)):
            stream.over.set()

    def _http_event(self, event):
        if isinstance(event, HeadersReceived):
            response = self.responses.get(event.stream_id)
            if response is not None and not response.done():
                response.set_result(dict(event.headers))
        elif isinstance(event, DatagramReceived):
            self.on_datagram(event.data)

    def ask(self, authority, path, headers=()):
        """Asks for a session; returns the number of its stream."""
        number = self._quic.get_next_available_stream_id()
        self.responses[number] = asyncio.get_running_loop().create_future()
        head = [(b":method", b"CONNECT"), (b":protocol", b"webtransport"), (b":scheme", b"https")]
        head += [(b":authority", authority.encode()), (b":path", path.encode())]
        head += [(name.encode(), value.encode()) for name, value in headers]
        self.http.send_headers(number, head)
        self.transmit()
        return number

    async def response(self, number):
        """The headers of the response to what was asked."""
        waiting = [self.responses[number], self.terminated]
        await asyncio.wait(waiting, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        if not self.responses[number].done():
            raise AssertionError("no response to the request")
        return self.responses[number].result()

    def open_stream(self, session, *, one_way=False):
        number = self.http.create_webtransport_stream(session, is_unidirectional=one_way)
        self.streams[number] = Stream(number)
        self.transmit()
        return self.streams[number]

    def write(self, stream, data, end=False):
        self._quic.send_stream_data(stream.number, data, end)
        self.transmit()

    def reset(self, stream, code=0):
        self._quic.reset_stream(stream.number, code)
        self.transmit()

    def certificate(self):
        """The server's certificate. aioquic checks it but has no public way to it."""
        return self._quic.tls._peer_certificate


async def dial(gateway, stack):
    """A QUIC connection to the gateway, closed when the stack is left."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        max_datagram_frame_size=65_536,
        server_name="localhost",
        # Self-made; `test_connecting` holds it against the announced hash.
        verify_mode=ssl.CERT_NONE,
    )
    dialled = connect(
        gateway.host, gateway.port, configuration=configuration, create_protocol=Http3
    )
    return await stack.enter_async_context(dialled)


class WebTransport(Member):
    def __init__(self, codec, stack, http, session, response):
        super().__init__(codec)
        self._stack = stack
        self.http = http
        self.session = session
        self.response = response
        self._readers = []
        self.signal = None
        self.bulk = None
        http.on_datagram = self.arrived
        http.on_end.append(self.ended)

    @classmethod
    async def open(cls, gateway, codec="json", *, path=None, headers=(), streams=True):
        """With `streams` the two are opened, and the bulk stream is announced."""
        stack = AsyncExitStack()
        try:
            http = await dial(gateway, stack)
            path = f"/v1/wt?codec={codec}" if path is None else path
            authority = f"{gateway.host}:{gateway.port}"
            session = http.ask(authority, path, headers)
            response = await http.response(session)
            status = int(response[b":status"])
            if status != 200:
                raise Refused(status)
        except BaseException:
            await stack.aclose()
            raise
        member = cls(codec, stack, http, session, response)
        if streams:
            member.signal = member.open_stream()
            member.bulk = member.open_stream()
            await member.send("lane", lane="bulk")
        return member

    def open_stream(self):
        """A stream whose messages count as the member's."""
        stream = self.http.open_stream(self.session)
        self._readers.append(asyncio.create_task(self._read(stream)))
        return stream

    async def _read(self, stream):
        while True:
            self.arrived(await stream.frames.get())

    async def send_bytes(self, payload, lane="signal"):
        stream = self.signal if lane == "signal" else self.bulk
        self.http.write(stream, varint.write(len(payload)) + payload)

    def send_datagram(self, payload):
        self.http.http.send_datagram(self.session, payload)
        self.http.transmit()

    async def closed(self):
        """The code of the QUIC close; None if the session ended without one."""
        end = asyncio.shield(self.http.terminated)
        event = await asyncio.wait_for(end, DEADLINE_S)
        return event.error_code

    async def abandon(self):
        for reader in self._readers:
            reader.cancel()
        await self._stack.aclose()
