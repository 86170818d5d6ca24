"""Models over HTTP: which there are, where they are loaded, and orders to load or unload them."""

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import status
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.model_serializers import (
    ModelListOut,
    ModelWithWorkersOut,
    OrderIn,
    OrderOut,
    order_out,
)
from generation.api.views import PREFER
from generation.choices import CommandKind
from generation.models import Worker
from generation.orders import order_create, order_get, order_result
from imagegen_project.common.http import Preference, caller
from imagegen_project.common.waiting import Wait, has_waited, leave_to_gate
from models_registry.selectors import checkpoint_default_id, checkpoint_get, checkpoints_enabled


def _context(request: Request) -> dict[str, Any]:
    """The default, and the live workers by name. A name tells host and process, so strangers see numbers instead."""
    workers = Worker.objects.live().order_by("name")
    known = request.user.is_authenticated
    return {
        "default_id": checkpoint_default_id(),
        "workers": [
            (worker.name if known else f"worker-{number}", worker)
            for number, worker in enumerate(workers, start=1)
        ],
    }


class ModelListView(APIView):
    """The models that requests may name: open to all, since nothing here is secret."""

    permission_classes = (AllowAny,)
    throttle_scope = "models"

    @extend_schema(operation_id="models_list", responses=ModelListOut, auth=[])
    def get(self, request: Request) -> Response:
        """Every enabled model: its limits and defaults, its files' state, and where each worker has it."""
        models = ModelWithWorkersOut(checkpoints_enabled(), many=True, context=_context(request))
        return Response({"object": "list", "data": models.data})


class ModelDetailView(APIView):
    """One model, by registry id or repository name."""

    permission_classes = (AllowAny,)
    throttle_scope = "models"

    @extend_schema(operation_id="models_retrieve", responses=ModelWithWorkersOut, auth=[])
    def get(self, request: Request, name: str) -> Response:
        """One model's limits and defaults, its files' state, and where each worker has it."""
        return Response(ModelWithWorkersOut(checkpoint_get(name=name), context=_context(request)).data)


class ModelOrderView(APIView):
    """Orders to the GPU workers about a model."""

    throttle_scope = "orders"
    kind = CommandKind.LOAD

    @extend_schema(request=OrderIn, parameters=[PREFER], responses={200: OrderOut, 202: OrderOut})
    def post(self, request: Request) -> Response:
        """Orders it and waits until it is done; with `Prefer: respond-async`, 202 at once."""
        serializer = OrderIn(data=request.data)
        serializer.is_valid(raise_exception=True)
        preference = Preference.of(request)
        commands = order_create(kind=self.kind, requested_by=caller(request), **serializer.validated_data)
        address = commands[0].get_absolute_url()
        if not preference.respond_async:
            feeds = tuple(command.pk for command in commands)
            leave_to_gate(request, Wait(feeds, preference.wait_seconds, address))
        return Response(order_out(commands), status=status.HTTP_202_ACCEPTED, headers={"Location": address})


@extend_schema_view(post=extend_schema(operation_id="models_load"))
class ModelLoadView(ModelOrderView):
    """Loads a model while others go on drawing, downloading it first where needed."""


@extend_schema_view(post=extend_schema(operation_id="models_unload"))
class ModelUnloadView(ModelOrderView):
    """Unloads a model from a worker that holds it."""

    kind = CommandKind.UNLOAD


class OrderView(APIView):
    """An order that was given: whoever gave it sees it, and staff."""

    @extend_schema(operation_id="models_order", responses=OrderOut)
    def get(self, request: Request, order_id: UUID) -> Response:
        """How far it is; where it was waited for and failed, the failure's problem."""
        commands = order_get(user=request.user, order_id=order_id)
        if has_waited(request):
            order_result(commands)
        return Response(order_out(commands))
