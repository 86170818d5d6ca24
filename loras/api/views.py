"""LoRA over HTTP."""

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, status
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from imagegen_project.common.http import caller
from imagegen_project.common.ids import UUID_REGEX
from imagegen_project.common.waiting import has_waited
from loras import services
from loras.api.filters import LoraFilter
from loras.api.serializers import LoraOut, LoraUploadIn, lora_url
from loras.errors import LoraUnavailableError
from loras.models import Lora
from loras.selectors import holders_by_content, lora_get, loras_visible


def _accepted(lora: Lora) -> Response:
    return Response(LoraOut(lora).data, status=status.HTTP_202_ACCEPTED, headers={"Location": lora_url(lora)})


@extend_schema_view(
    list=extend_schema(description="Your LoRA and the shared ones, newest first (staff: everyone's)."),
    retrieve=extend_schema(description="One LoRA as it stands."),
)
class LoraViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, GenericViewSet[Lora]):
    """The LoRA that one may use."""

    serializer_class = LoraOut
    filterset_class = LoraFilter
    queryset = Lora.objects.none()
    lookup_value_regex = UUID_REGEX
    lookup_url_kwarg = "lora_id"

    def get_queryset(self) -> Any:
        """What this user may see."""
        return loras_visible(self.request.user)

    def get_serializer_context(self) -> dict[str, Any]:
        """With the workers that hold each file, read once for a whole list."""
        # The schema is made without a database.
        holders = {} if getattr(self, "swagger_fake_view", False) else holders_by_content()
        return {**super().get_serializer_context(), "holders": holders}

    def get_object(self) -> Lora:
        """One of them. Raises LoraNotFoundError."""
        return lora_get(user=self.request.user, name=self.kwargs["lora_id"])

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One LoRA as it stands. As the answer to a wait for it, what came to nothing is an error."""
        lora = self.get_object()
        if has_waited(request) and lora.error_code:
            raise LoraUnavailableError(f"The LoRA {lora.name} cannot be used: {lora.error_detail}")
        return Response(self.get_serializer(lora).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Deletes a LoRA of yours; its file stays while another LoRA has the same."""
        services.lora_delete(user=caller(request), lora=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)


class LoraUploadView(APIView):
    """New LoRA from files."""

    parser_classes = (MultiPartParser,)
    throttle_scope = "uploads"

    @extend_schema(operation_id="loras_upload", request=LoraUploadIn, responses={202: LoraOut})
    def post(self, request: Request) -> Response:
        """Reads the file's header, stores it as yours alone and answers 202; every weight is checked afterwards."""
        serializer = LoraUploadIn(data=request.data)
        serializer.is_valid(raise_exception=True)
        return _accepted(services.lora_upload(owner=caller(request), **serializer.validated_data))
