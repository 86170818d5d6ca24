"""Building blocks of every serializer that reads a request."""

from typing import Any

from django.core.files.uploadedfile import UploadedFile
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

# Of the fields that a request should not have; a body has room for a million.
MAX_UNKNOWN_NAMED = 10


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses fields it does not know (DRF drops them in silence)."""

    def to_internal_value(self, data: Any) -> Any:
        """The validated values. Raises ValidationError that names each unknown field."""
        if hasattr(data, "keys"):
            # A browser's form carries Django's token beside the fields.
            unknown = set(data.keys()) - set(self.fields) - {"csrfmiddlewaretoken"}
            if unknown:
                known = ", ".join(sorted(self.fields))
                unknown_field = serializers.ErrorDetail(f"Unknown field. Known: {known}.", "unknown_field")
                first = sorted(map(str, unknown))[:MAX_UNKNOWN_NAMED]
                raise serializers.ValidationError({name[:100]: [unknown_field] for name in first})
        errors = {name: self._shape_error(data, name) for name in map(str, self.fields)}
        if any(errors.values()):
            raise serializers.ValidationError({name: error for name, error in errors.items() if error})
        return super().to_internal_value(data)

    def _shape_error(self, data: Any, name: str) -> serializers.ErrorDetail | None:
        if hasattr(data, "getlist"):
            return self._form_error(data.getlist(name), name)
        return self._number_error(data.get(name), name) if isinstance(data, dict) else None

    def _form_error(self, values: list[Any], name: str) -> serializers.ErrorDetail | None:
        """What only a form can do wrong: DRF takes the last of several values, and a file's name for its text."""
        if len(values) > 1:
            return serializers.ErrorDetail("Given more than once.", "repeated")
        is_file = bool(values) and isinstance(values[0], UploadedFile)
        if is_file and not isinstance(self.fields[name], serializers.FileField):
            return serializers.ErrorDetail("A file, where text is expected.", "unexpected_file")
        return None

    def _number_error(self, value: Any, name: str) -> serializers.ErrorDetail | None:
        """A number in the place of text, which DRF would take for its digits."""
        if isinstance(value, int | float) and isinstance(self.fields[name], serializers.CharField):
            return serializers.ErrorDetail("Not a valid string.", "invalid")
        return None


class BoundedListField(serializers.ListField):
    """A list whose length is looked at before what is in it: DRF reads millions of children, then counts them."""

    def to_internal_value(self, data: Any) -> list[Any]:
        """The values. Raises ValidationError."""
        if isinstance(data, list | tuple) and self.max_length is not None and len(data) > self.max_length:
            message = self.error_messages["max_length"].format(max_length=self.max_length)
            raise serializers.ValidationError([message], "max_length")
        values: list[Any] = super().to_internal_value(data)
        return values


class TextField(serializers.CharField):
    """Text that PostgreSQL can store: no NUL (DRF's rule) and no lone surrogate, which has no UTF-8 form."""

    default_error_messages = {"surrogate": _("Lone surrogates cannot be stored as text.")}

    def to_internal_value(self, data: Any) -> str:
        """The text. Raises ValidationError."""
        value: str = super().to_internal_value(data)
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail("surrogate")
        return value
