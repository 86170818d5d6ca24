"""Pictures in requests: in JSON or as a form's files."""

from typing import Any

from django.core.files.uploadedfile import UploadedFile
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from generation.errors import InvalidImageError
from generation.pictures.reading import MAX_PICTURE_BYTES, Picture, base64_decode, picture_read
from imagegen_project.common.serializers import BoundedListField


@extend_schema_field(OpenApiTypes.STR)
class PictureField(serializers.FileField):
    """A picture: base64 text, a base64 data URI, or a form's file. Its validated value is a Picture."""

    def to_internal_value(self, data: Any) -> Picture:  # type: ignore[override]  # not the file, what it shows
        """Decodes it, unless a door has done so. Raises ValidationError."""
        if isinstance(data, Picture):
            return data
        try:
            return picture_read(self._bytes(data))
        except InvalidImageError as error:
            raise serializers.ValidationError(error.detail, error.code) from error

    def _bytes(self, data: Any) -> bytes:
        if isinstance(data, str):
            return base64_decode(data)
        if not isinstance(data, UploadedFile):
            raise InvalidImageError("Give base64 text, a base64 data URI, or a form's file.")
        content: bytes = data.read(MAX_PICTURE_BYTES + 1)
        return content


@extend_schema_field(OpenApiTypes.BINARY)
class PictureFileField(PictureField):
    """The same, documented as the file that a multipart form holds."""


class PicturesField(BoundedListField):
    """Some pictures: a list of base64 texts and data URIs, or the files that a form holds under this name."""

    child = PictureField()


class PictureFilesField(PicturesField):
    """The same, documented as the files that a multipart form holds."""

    child = PictureFileField()
