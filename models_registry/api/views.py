"""The registry over HTTP: open to all, since it holds no secret."""

from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry.api.serializers import ModelListOut, ModelOut
from models_registry.selectors import checkpoint_get, checkpoints_enabled


class ModelListView(APIView):
    """The models that requests may name."""

    permission_classes = (AllowAny,)

    @extend_schema(operation_id="models_list", responses=ModelListOut, auth=[])
    def get(self, request: Request) -> Response:
        """Every enabled model, with its limits and defaults."""
        return Response({"object": "list", "data": ModelOut(checkpoints_enabled(), many=True).data})


class ModelDetailView(APIView):
    """One model, by registry id or repository name."""

    permission_classes = (AllowAny,)

    @extend_schema(operation_id="models_retrieve", responses=ModelOut, auth=[])
    def get(self, request: Request, name: str) -> Response:
        """One model's limits and defaults."""
        return Response(ModelOut(checkpoint_get(name=name)).data)
