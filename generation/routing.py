"""Where sockets are mounted."""

from django.urls import path, re_path

from generation.consumers import GenerationConsumer
from imagegen_project.common.sockets import RefuseConsumer

websocket_urlpatterns = [
    path("ws/generations/<uuid:generation_id>/", GenerationConsumer.as_asgi()),
    path("ws/generations/<uuid:generation_id>", GenerationConsumer.as_asgi()),
    re_path(r"", RefuseConsumer.as_asgi()),
]
