"""LoRA on the workers: bringing one to disk and onto a loaded model, and taking it off."""

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.model_serializers import OrderOut, order_out
from generation.api.views import PREFER
from generation.orders import adapter_attach, adapter_detach
from imagegen_project.common.http import Preference, caller
from imagegen_project.common.serializers import StrictSerializer
from imagegen_project.common.waiting import Wait, leave_to_gate
from loras.api.serializers import LoraLoadIn, LoraOut, lora_url
from loras.selectors import lora_get, loras_visible
from loras.services import lora_check_fits, lora_load

MAX_OFFERED = 100


class LoraUnloadIn(StrictSerializer):
    """Which LoRA to take off the workers."""

    lora = serializers.CharField(
        max_length=200, help_text="Its id, its name, or the repository it came from."
    )

    def form_choices(self) -> dict[str, list[tuple[str, str]]]:
        """The LoRA that whoever asks may name."""
        return {"lora": [(one.name, one.name) for one in loras_visible(self.context["owner"])[:MAX_OFFERED]]}


class LoraLoadView(APIView):
    """New LoRA from the Hub."""

    throttle_scope = "uploads"

    @extend_schema(
        operation_id="loras_load",
        request=LoraLoadIn,
        parameters=[PREFER],
        responses={200: LoraOut, 202: LoraOut},
    )
    def post(self, request: Request) -> Response:
        """Registers a repository's LoRA as yours, downloads it, and puts it on a loaded model that it fits.

        Answers when that is done; with `Prefer: respond-async`, 202 at once. Again is a no-op.
        """
        serializer = LoraLoadIn(data=request.data)
        serializer.is_valid(raise_exception=True)
        values = serializer.validated_data
        checkpoint = values.pop("model_id", None)
        lora = lora_load(owner=caller(request), repository=values.pop("lora_path"), **values)
        if checkpoint and lora.family:
            lora_check_fits(lora=lora, checkpoint=checkpoint, param="lora_path")
        orders = adapter_attach(lora=lora, requested_by=caller(request), checkpoint=checkpoint)
        preference = Preference.of(request)
        if not preference.respond_async:
            feeds = tuple(command.pk for command in orders) or (lora.pk,)
            leave_to_gate(request, Wait(feeds, preference.wait_seconds, lora_url(lora)))
        return Response(
            LoraOut(lora).data, status=status.HTTP_202_ACCEPTED, headers={"Location": lora_url(lora)}
        )


class LoraUnloadView(APIView):
    """LoRA that need not stay on the workers."""

    throttle_scope = "uploads"

    @extend_schema(
        operation_id="loras_unload",
        request=LoraUnloadIn,
        parameters=[PREFER],
        responses={200: OrderOut, 202: OrderOut, 204: None},
    )
    def post(self, request: Request) -> Response:
        """Takes a LoRA off every worker that holds it, once the job that uses it has ended; 204 where none does."""
        serializer = LoraUnloadIn(data=request.data)
        serializer.is_valid(raise_exception=True)
        lora = lora_get(user=request.user, name=serializer.validated_data["lora"], param="lora")
        commands = adapter_detach(lora=lora, requested_by=caller(request))
        if not commands:
            return Response(status=status.HTTP_204_NO_CONTENT)
        preference, address = Preference.of(request), commands[0].get_absolute_url()
        if not preference.respond_async:
            leave_to_gate(
                request,
                Wait(tuple(command.pk for command in commands), preference.wait_seconds, address),
            )
        return Response(order_out(commands), status=status.HTTP_202_ACCEPTED, headers={"Location": address})
