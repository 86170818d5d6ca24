"""Reading a picture's settings back."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.serializers import WarningOut
from generation.errors import InvalidImageError
from generation.pictures.infotext import infotext_read
from generation.requests.picture_fields import PictureField, PictureFileField
from generation.requests.png_info import png_info
from imagegen_project.common.http import caller
from imagegen_project.common.serializers import StrictSerializer


class PngInfoIn(StrictSerializer):
    """A picture."""

    image = PictureField(help_text="PNG, JPEG or WebP: base64, data URI or a form's file.")


class PngInfoFormIn(PngInfoIn):
    """The same, documented as a multipart form."""

    image = PictureFileField(help_text="PNG, JPEG or WebP.")


class PngInfoOut(serializers.Serializer[Any]):
    """What a picture's file says of how it was made."""

    notes_of = serializers.ChoiceField(
        choices=["imagegen", "a1111"],
        allow_null=True,
        help_text="Whose notes they are; null: there are none.",
    )
    parameters = serializers.CharField(help_text="The notes in A1111's form.")
    request = serializers.JSONField(
        help_text="Fields of a request that makes it again, as far as they are known here."
    )
    needs = serializers.ListField(child=serializers.CharField(), help_text="Fields that no file can give.")
    warnings = WarningOut(many=True)


class PngInfoView(APIView):
    """Reads pictures' settings."""

    @extend_schema(
        operation_id="png_info",
        summary="Read a picture's settings back",
        request={"application/json": PngInfoIn, "multipart/form-data": PngInfoFormIn},
        responses=PngInfoOut,
    )
    def post(self, request: Request) -> Response:
        """How a picture was made, by what this service or A1111's programs wrote into it, as a request's fields."""
        body = PngInfoIn(data=request.data)
        body.is_valid(raise_exception=True)
        try:
            texts = infotext_read(body.validated_data["image"].data)
        except InvalidImageError as error:
            raise serializers.ValidationError(
                {"image": serializers.ErrorDetail(error.detail, error.code)}
            ) from error
        return Response(PngInfoOut(png_info(texts, owner=caller(request))).data)
