"""What the patches of the web server lean on: the very code that they replace, call or reach into.

Whether they do what they should is tested through the real server, in `test_bodies`, `test_slow_readers`,
`test_messages` and `test_live_drain`. Here a new version of a library is noticed: look at what has changed in the
function, mend `patches.py` where that matters, and note the new digest.
"""

import ast
import hashlib
import inspect
from functools import cache
from types import ModuleType

import daphne.http_protocol
import daphne.server
import daphne.ws_protocol
import pytest
from autobahn.websocket import protocol as autobahn
from twisted.internet import abstract
from twisted.web import http

LEANED_ON = {
    # Bodies: when they are called, with what, and what of the channel they leave to be read.
    (http, "Request.gotLength"): "c75ab0acc87a",
    (http, "Request.handleContentChunk"): "4f477302cf18",
    (http, "Request.requestReceived"): "81c2100adad6",
    (http, "Request._cleanup"): "c6e75b78b575",
    (http, "HTTPChannel.lineReceived"): "f6357186f597",
    (http, "HTTPChannel.allHeadersReceived"): "8798e503dedb",
    (http, "HTTPChannel.allContentReceived"): "f20ab804aa08",
    (http, "HTTPChannel.rawDataReceived"): "1bb554337489",
    (http, "HTTPChannel.dataReceived"): "3be6180306c7",
    (http, "HTTPChannel.requestDone"): "dff0b2ed4838",
    (http, "HTTPChannel.connectionLost"): "b15bdb7eb931",
    (http, "HTTPChannel._send100Continue"): "3d929f619c62",
    (http, "HTTPChannel.loseConnection"): "0af40bf4c382",
    (http, "_GenericHTTPChannelProtocol.dataReceived"): "0501434f5e03",
    (daphne.http_protocol, "WebRequest.process"): "009fec0cde27",
    (daphne.http_protocol, "WebRequest.finish"): "675957f557b6",
    (daphne.http_protocol, "WebRequest.connectionLost"): "216720021839",
    (daphne.http_protocol, "WebRequest.check_timeouts"): "0f856e15a3be",
    (daphne.server, "Server.create_application"): "70369507a4ef",
    (daphne.server, "Server.timeout_checker"): "70a251ec55a8",
    # Slow readers: where bytes wait, and who ends a connection when.
    (abstract, "FileDescriptor.write"): "f54a3cd9f21d",
    (abstract, "FileDescriptor.doWrite"): "59d5e53f857a",
    (http, "HTTPChannel.timeoutConnection"): "c0d73d7cf15f",
    (http, "HTTPChannel.registerProducer"): "c1f811ccdc1e",
    (daphne.http_protocol, "WebRequest.handle_reply"): "998112446692",
    (daphne.ws_protocol, "WebSocketProtocol.onOpen"): "2146c9d9a891",
    (daphne.ws_protocol, "WebSocketProtocol.serverSend"): "433ba6eb5711",
    (autobahn, "WebSocketProtocol.sendCloseFrame"): "87263bcf4588",
    (autobahn, "WebSocketProtocol.onCloseHandshakeTimeout"): "fe5e0bdc1889",
    (autobahn, "WebSocketProtocol.onAutoPingTimeout"): "5b1c4507c41f",
    (autobahn, "WebSocketProtocol._sendAutoPing"): "7fca5934ed30",
    (autobahn, "WebSocketProtocol.dropConnection"): "e6c8450f4908",
    # Messages that have not come whole.
    (autobahn, "WebSocketProtocol.onMessageFrameData"): "ed942c48e919",
    (autobahn, "WebSocketProtocol.onMessageEnd"): "737a05d1f9fa",
    (daphne.ws_protocol, "WebSocketProtocol.onClose"): "893ea1b882b9",
    (daphne.ws_protocol, "WebSocketProtocol.check_timeouts"): "2d04734b8a06",
    # The end of the process.
    (daphne.server, "Server.listen_success"): "6b3851e71d85",
    (daphne.server, "Server.kill_all_applications"): "8c6c86e85fe5",
    (daphne.server, "Server.run"): "f9eaa8f93280",
}


@cache
def tree_of(module: ModuleType) -> ast.Module:
    """A library's module, of thousands of lines."""
    return ast.parse(inspect.getsource(module))


def digest(module: ModuleType, name: str) -> str:
    """Of a method's code, whatever its comments and layout."""
    class_name, method = name.split(".")
    [body] = [
        node.body
        for node in tree_of(module).body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    ]
    [function] = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == method]
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:] or [ast.Pass()]
    function.returns = None
    for argument in [*function.args.args, *function.args.kwonlyargs]:
        argument.annotation = None
    return hashlib.sha256(ast.unparse(function).encode()).hexdigest()[:12]


@pytest.mark.parametrize(
    ("place", "noted"), LEANED_ON.items(), ids=lambda value: str(value).split("'")[-2:][0]
)
def test_what_is_patched_is_what_was_looked_at(place: tuple[ModuleType, str], noted: str) -> None:
    """In the versions that the requirements name."""
    assert digest(*place) == noted, f"{place[1]} of {place[0].__name__} has changed"
