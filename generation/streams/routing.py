"""Where sockets are mounted."""

from django.urls import path, re_path

from generation.streams.draw_socket import Img2ImgConsumer, Txt2ImgConsumer
from generation.streams.follow_socket import GenerationConsumer
from imagegen_project.common.sockets import RefuseConsumer

websocket_urlpatterns = [
    path("ws/generations/<uuid:generation_id>/", GenerationConsumer.as_asgi()),
    path("ws/generations/<uuid:generation_id>", GenerationConsumer.as_asgi()),
    re_path(r"^stream/generate/txt2img/?$", Txt2ImgConsumer.as_asgi()),
    re_path(r"^stream/generate/img2img/?$", Img2ImgConsumer.as_asgi()),
    re_path(r"", RefuseConsumer.as_asgi()),
]
