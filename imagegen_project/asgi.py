"""The ASGI application: Django for HTTP behind a gate, Channels for sockets."""

import gc
import os
from typing import cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "imagegen_project.settings")

import django

django.setup(set_prefix=False)  # before anything below

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.conf import settings  # noqa: E402
from django.urls import get_resolver  # noqa: E402

from generation.compat.shapes import shape_of  # noqa: E402
from generation.feed.following import wait_for_end  # noqa: E402
from generation.services import generations_abandon  # noqa: E402
from generation.streams.routing import websocket_urlpatterns  # noqa: E402
from generation.streams.sse import EventStreams, is_event_stream  # noqa: E402
from imagegen_project.auth.websocket import OriginMiddleware, SocketAuthMiddleware  # noqa: E402
from imagegen_project.common.asgi import Application  # noqa: E402
from imagegen_project.server.connections import ConnectionContext, UserConnections  # noqa: E402
from imagegen_project.server.cors import shared_with_sites  # noqa: E402
from imagegen_project.server.gate import RequestGate  # noqa: E402
from imagegen_project.server.handler import OneThreadHandler  # noqa: E402
from imagegen_project.server.patches import (  # noqa: E402
    bound_bodies,
    bound_messages,
    cut_slow_readers,
    drain_at_shutdown,
)
from imagegen_project.server.senders import sender  # noqa: E402
from imagegen_project.telemetry.metrics import Metered  # noqa: E402

bound_bodies(identify=sender)
bound_messages()
cut_slow_readers()
drain_at_shutdown(is_event_stream=is_event_stream)
gate = RequestGate(
    cast(Application, OneThreadHandler()),
    wait_for_end=wait_for_end,
    abandon=generations_abandon,
    error_shape=shape_of,
)
sockets = UserConnections(URLRouter(websocket_urlpatterns))
application = ProtocolTypeRouter(
    {
        "http": Metered(shared_with_sites(EventStreams(gate), origins=settings.CORS_ALLOWED_ORIGINS)),
        "websocket": Metered(ConnectionContext(OriginMiddleware(SocketAuthMiddleware(sockets)))),
    }
)

# A request and what it carried refer to each other: only the full garbage collection takes a picture's bytes back. It
# comes too rarely where the heap is mostly code: what there is now stays for ever, and is looked at no more.
_ = get_resolver().url_patterns  # reads them, and with them every view
gc.collect()
gc.freeze()
gc.collect()
