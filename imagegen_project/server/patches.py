"""Everything that this project changes of its web server: daphne, and Twisted and autobahn below it.

No setting of theirs reaches these places. Each change leans on how the present versions work inside, so each has a test
in `tests/unit/imagegen_project/server/test_patches.py` that fails when that is different; what the changes decide lies
in `bodies`, `slow_readers` and `drain`, which know nothing of the server's insides.
"""

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from typing import IO, Any, Final
from urllib.parse import unquote

from daphne.http_protocol import WebRequest
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.protocols import basic
from twisted.web import http

from imagegen_project.server.bodies import TOO_SLOW, BodyFile, Head, Identify, Intake
from imagegen_project.server.drain import drain
from imagegen_project.server.gate import REFUSAL_KEY
from imagegen_project.server.inbox import Inbox
from imagegen_project.server.slow_readers import CLOSE_PATIENCE_S, LEAST_BYTES_PER_S, TOO_SLOW_CODE, Brake

# How long the rest of a refused body is read and thrown away, so that its sender comes to read the answer.
LINGER_S: Final = 30.0

reactor: Any = _reactor
HTTPChannel: Any = http.HTTPChannel
LineReceiver: Any = basic.LineReceiver


# Bodies


class _FiledContent:
    """What the server takes for a request's content: one read gives the file, not what is in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        """The file, as an empty body; everything when no size is asked for."""
        if size < 0:
            return self._file.read()
        body = BodyFile()
        body.file = self._file
        return body


def _head(request: Any, declared: int | None) -> Head:
    channel = request.channel
    headers = [
        (name.lower(), value)
        for name, values in request.requestHeaders.getAllRawHeaders()
        for value in values
    ]
    client = (request.client.host, request.client.port) if hasattr(request.client, "host") else None
    path = unquote(channel._path.partition(b"?")[0].decode("latin-1"))  # noqa: SLF001 - not yet the request's
    return Head(channel._command.decode("latin-1"), path, headers, client, declared)  # noqa: SLF001


_check_timeouts, _create_application = WebRequest.check_timeouts, Server.create_application
_received, _process = WebRequest.requestReceived, WebRequest.process
_finish, _lost = WebRequest.finish, WebRequest.connectionLost
_continue = HTTPChannel._send100Continue  # noqa: SLF001


def bound_bodies(*, identify: Identify) -> None:
    """Bodies are taken by `Intake`'s rules, and reach the application's queue as a file where they lie in one.

    The server would store whatever comes, then put all of it into the queue at once; an upload would lie in memory
    whole. Nor may the library read forms for itself: nobody asks it for their fields, and it answers a form without
    parts with an empty 400 of its own.
    """

    def got_length(request: Any, declared: int | None) -> None:
        request.content = BytesIO()
        request.intake = Intake(
            _head(request, declared),
            identify=identify,
            on_refused=lambda: reactor.callLater(0, _answer_early, request),
            on_settled=lambda: _resume(request),
        )
        request.intake.begin()
        _pause(request)

    WebRequest.gotLength = got_length
    WebRequest.handleContentChunk = _take
    WebRequest.requestReceived = _received_whole
    WebRequest.process = _process_filed
    WebRequest.finish = _finish_released
    WebRequest.connectionLost = _lost_released
    WebRequest.check_timeouts = _check_body
    HTTPChannel._send100Continue = _continue_once_wanted  # noqa: SLF001
    HTTPChannel.dataReceived = _received_in_time
    Server.create_application = _create_refused


def _take(request: Any, data: bytes) -> None:
    request.intake.take(data)
    _pause(request)


def _pause(request: Any) -> None:
    """Nothing more comes while the sender is looked up."""
    if request.intake.asking is not None:
        request.channel._networkProducer.pauseProducing()  # noqa: SLF001


def _resume(request: Any) -> None:
    channel = request.channel
    if channel is None:
        return
    if (waiting := getattr(request, "waiting", None)) is not None:
        waiting()
    elif request.intake.refusal is None:
        if getattr(request, "is_expected", False):
            _continue(channel)
        channel._networkProducer.resumeProducing()  # noqa: SLF001


def _continue_once_wanted(channel: Any) -> None:
    """No `100 Continue` to a body that is refused, nor before it is known whose it is."""
    request = channel.requests[-1]
    if request.intake.asking is not None:
        request.is_expected = True
    elif request.intake.refusal is None:
        _continue(channel)


def _answer_early(request: Any) -> None:
    """Has the refusal answered, though the body has not come whole."""
    channel = request.channel
    if channel is not None and not channel._handlingRequest:  # noqa: SLF001
        request.is_cut = True
        channel.allContentReceived()


def _received_whole(request: Any, *line: bytes) -> None:
    intake = request.intake
    if intake.asking is not None:
        request.waiting = partial(_received_whole, request, *line)
        return
    request.is_whole = True
    request.content = intake.content
    request._parsePOSTFormSubmission = False  # noqa: SLF001 - nothing else says so
    if intake.refusal is not None:
        request.channel.persistent = 0
        if getattr(request, "is_cut", False):
            request.channel.loseConnection = partial(_linger, request.channel)
    _received(request, *line)


def _process_filed(request: Any) -> Any:
    if not isinstance(request.content, BytesIO):  # small bodies are in memory anyway
        request.content = _FiledContent(request.content)
    return _process(request)


def _create_refused(server: Any, protocol: Any, scope: dict[str, Any]) -> Any:
    if (intake := getattr(protocol, "intake", None)) is not None and intake.refusal is not None:
        scope[REFUSAL_KEY] = intake.refusal
    return _create_application(server, protocol, scope)


def _linger(channel: Any) -> None:
    """Ends the connection once its other end has read the answer; closing now could throw that away."""
    transport = channel.transport
    channel._networkProducer.unregisterProducer()  # noqa: SLF001
    channel._dataBuffer = []  # noqa: SLF001
    channel.dataReceived = lambda data: None
    channel._abortingCall = reactor.callLater(LINGER_S, channel.forceAbortClient)  # noqa: SLF001
    transport.loseWriteConnection()
    transport.resumeProducing()


def _finish_released(request: Any) -> None:
    _release(request)
    _finish(request)


def _lost_released(request: Any, reason: Any) -> None:
    _release(request)
    _lost(request, reason)


def _release(request: Any) -> None:
    if (intake := getattr(request, "intake", None)) is not None:
        intake.release()


def _check_body(request: Any) -> None:
    """Called every two seconds."""
    intake = getattr(request, "intake", None)
    if intake is not None and not getattr(request, "is_whole", False):
        if intake.refusal is None and intake.is_slow():
            intake.refuse(TOO_SLOW)
        return
    _check_timeouts(request)


def _received_in_time(channel: Any, data: bytes) -> None:
    """A request's head has to come within the time that an idle connection has: its bytes do not start it anew."""
    if not channel.line_mode:
        channel.resetTimeout()
    LineReceiver.dataReceived(channel, data)


# Slow readers


def _buffered(transport: Any) -> int:
    """Bytes that were written and wait in the library's buffer."""
    not_joined = transport._tempDataLen  # noqa: SLF001 - Twisted tells it nowhere else
    return int(len(transport.dataBuffer) - transport.offset + not_joined)


def _unsent(transport: Any) -> int:
    """Bytes that were written and have not arrived at the other end: in the library's buffer and in the kernel's."""
    try:
        [queued] = struct.unpack("i", fcntl.ioctl(transport.fileno(), termios.TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):  # closed, or a kernel that does not tell
        queued = 0
    return _buffered(transport) + int(queued)


def _moves(connection: Any, *, within_s: float) -> bool:
    """Whether enough has arrived since this was asked last, for a connection that has more to send."""
    unsent, before = _unsent(connection.transport), getattr(connection, "unsent_before", None)
    connection.unsent_before = unsent
    return unsent > 0 and (before is None or before - unsent >= LEAST_BYTES_PER_S * within_s)


_open, _send = WebSocketProtocol.onOpen, WebSocketProtocol.serverSend
_send_close = WebSocketProtocol.sendCloseFrame
_ping_over, _close_over = WebSocketProtocol.onAutoPingTimeout, WebSocketProtocol.onCloseHandshakeTimeout
_reply, _timed_out = WebRequest.handle_reply, HTTPChannel.timeoutConnection


def cut_slow_readers() -> None:
    """Who does not read is cut off; who reads slowly is not.

    The server buffers without a bound what a client does not read. On the other hand it ends a socket one second
    after its close frame was written, ping or no ping, and a connection a minute after its answer was, however much
    of that has not been sent: pictures never arrive over a slow line.
    """
    WebSocketProtocol.onOpen, WebSocketProtocol.serverSend = _open_braked, _send_braked
    WebSocketProtocol.sendCloseFrame = _send_close_patiently
    WebSocketProtocol.onCloseHandshakeTimeout = _close_over_unless_moving
    WebSocketProtocol.onAutoPingTimeout = _ping_over_unless_moving
    WebRequest.handle_reply = _reply_braked
    HTTPChannel.timeoutConnection = _timed_out_unless_moving


def _open_braked(protocol: Any) -> None:
    protocol.brake = Brake(protocol.request.path)
    protocol.transport.unregisterProducer()  # HTTP's, from before the upgrade
    protocol.transport.registerProducer(protocol.brake, True)  # noqa: FBT003 - Twisted's signature
    _open(protocol)


def _send_braked(protocol: Any, content: Any, *binary: bool) -> None:
    # The client has said goodbye, and what it has not read is still on its way: the library raises until the connection
    # is gone, and from then on the server says nothing.
    if protocol.state in (WebSocketProtocol.STATE_CLOSING, WebSocketProtocol.STATE_CLOSED):
        return
    brake = getattr(protocol, "brake", None)
    if brake is not None and brake.is_too_much(len(content), waiting=_buffered(protocol.transport)):
        protocol.sendClose(code=TOO_SLOW_CODE)
        protocol.dropConnection(abort=True)
        return
    _send(protocol, content, *binary)


def _send_close_patiently(protocol: Any, *args: Any, **options: Any) -> None:
    protocol.closeHandshakeTimeout = CLOSE_PATIENCE_S
    protocol.unsent_before = _unsent(protocol.transport)
    _send_close(protocol, *args, **options)


def _close_over_unless_moving(protocol: Any) -> None:
    if _moves(protocol, within_s=CLOSE_PATIENCE_S):
        protocol.closeHandshakeTimeoutCall = protocol.factory._batched_timer.call_later(  # noqa: SLF001
            CLOSE_PATIENCE_S, protocol.onCloseHandshakeTimeout
        )
    elif protocol.unsent_before:
        _close_over(protocol)
    else:  # all has arrived, though perhaps not been read: the end must not throw it away
        protocol.closeHandshakeTimeoutCall = None
        protocol.wasNotCleanReason = "no closing handshake in time"
        protocol.dropConnection(abort=False)


def _ping_over_unless_moving(protocol: Any) -> None:
    """The answer to a ping waits behind what has not been read yet; as long as that becomes less, it is on its way."""
    if _moves(protocol, within_s=protocol.autoPingTimeout):
        protocol.autoPingTimeoutCall = protocol.factory._batched_timer.call_later(  # noqa: SLF001
            protocol.autoPingTimeout, protocol.onAutoPingTimeout
        )
    else:
        _ping_over(protocol)


def _timed_out_unless_moving(channel: Any) -> None:
    if _moves(channel, within_s=channel.timeOut):
        channel.setTimeout(channel.timeOut)
    else:
        _timed_out(channel)


def _reply_braked(request: Any, message: Mapping[str, Any]) -> None:
    if request.finished or request.channel is None:  # the client has gone
        return
    brake: Brake | None = getattr(request, "brake", None)
    if message["type"] == "http.response.start":
        if (b"content-type", b"text/event-stream") in message.get("headers", ()):
            request.brake = Brake(request.path.decode("ascii"))
            request.registerProducer(request.brake, True)  # noqa: FBT003 - Twisted's signature
    elif brake is not None:
        transport = request.channel.transport
        if brake.is_too_much(len(message.get("body", b"")), waiting=_buffered(transport)):
            transport.abortConnection()
            return
        if not message.get("more_body"):
            request.unregisterProducer()
    _reply(request, message)


# Messages that come slowly


_frame_data, _message_end = WebSocketProtocol.onMessageFrameData, WebSocketProtocol.onMessageEnd
_socket_timeouts, _socket_closed = WebSocketProtocol.check_timeouts, WebSocketProtocol.onClose


def bound_messages() -> None:
    """Messages of sockets that have not come whole are bounded in time, and in memory for all sockets together."""
    WebSocketProtocol.onMessageFrameData = _frame_data_counted
    WebSocketProtocol.onMessageEnd = _message_end_counted
    WebSocketProtocol.onClose = _closed_counted
    WebSocketProtocol.check_timeouts = _check_message


def _inbox(protocol: Any) -> Inbox:
    if not hasattr(protocol, "inbox"):
        protocol.inbox = Inbox()
    inbox: Inbox = protocol.inbox
    return inbox


def _frame_data_counted(protocol: Any, payload: bytes) -> None:
    if protocol.state != protocol.STATE_OPEN:
        return
    if (code := _inbox(protocol).take(len(payload))) is None:
        _frame_data(protocol, payload)
    else:
        _end(protocol, code)


def _message_end_counted(protocol: Any) -> None:
    _inbox(protocol).end()
    if protocol.state == protocol.STATE_OPEN:
        _message_end(protocol)


def _closed_counted(protocol: Any, *args: Any) -> None:
    _inbox(protocol).end()
    _socket_closed(protocol, *args)


def _check_message(protocol: Any) -> None:
    """Called every two seconds."""
    if protocol.state == protocol.STATE_OPEN and (code := _inbox(protocol).overdue()) is not None:
        _end(protocol, code)
    _socket_timeouts(protocol)


def _end(protocol: Any, code: int) -> None:
    _inbox(protocol).end()
    protocol.frame_data, protocol.message_data = [], []
    protocol.sendClose(code=code)


# The end of the process


_listening, _cancel_all = Server.listen_success, Server.kill_all_applications


def drain_at_shutdown(*, is_event_stream: Callable[[str], bool]) -> None:
    """The process ends as `drain` says; the server would drop every connection at once.

    `is_event_stream(path)`: whether an answer there has no end of its own.
    """

    def listening_until_told(server: Any, port: Any) -> None:
        _listening(server, port)

        def before_shutdown() -> "Deferred[None]":
            port.stopListening()
            ending = drain(_Connections(server, is_event_stream), cancel_all=partial(_cancel_all, server))
            return Deferred.fromFuture(asyncio.ensure_future(ending))

        reactor.addSystemEventTrigger("before", "shutdown", before_shutdown)

    Server.listen_success = listening_until_told
    Server.kill_all_applications = lambda server: None  # at the end of `drain`, not as it begins


class _Connections:
    """The server's open connections, as `drain` looks at them."""

    def __init__(self, server: Any, is_event_stream: Callable[[str], bool]) -> None:
        self.server = server
        self.is_event_stream = is_event_stream

    def are_answering(self) -> bool:
        """Whether a request still has to be answered."""
        requests = (protocol for protocol in self.server.connections if isinstance(protocol, WebRequest))
        return any(not request.finished and request.channel is not None for request in requests)

    def send_away(self, code: int) -> None:
        """Closes sockets and event streams."""
        for protocol in list(self.server.connections):
            if isinstance(protocol, WebSocketProtocol):
                if protocol.state == protocol.STATE_OPEN:
                    protocol.sendClose(code=code)
            elif protocol.application_queue and self.is_event_stream(
                protocol.path.decode("ascii", "replace")
            ):
                protocol.application_queue.put_nowait({"type": "http.disconnect"})
