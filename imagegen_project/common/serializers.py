"""Building blocks of every serializer that reads a request."""

import json
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from operator import attrgetter
from typing import Any, Final, NoReturn, TypeAlias, TypeVar, cast

from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile
from django.db.models import Model
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.fields import SkipField, get_error_detail
from rest_framework.utils.serializer_helpers import BindingDict

from imagegen_project.common.problems import text_shown

# Of the fields that a request should not have; a body has room for a million.
MAX_UNKNOWN_NAMED = 10
MAX_NAME_SHOWN = 100
MAX_FORM_JSON_CHARACTERS: Final = 10_000
SURROGATE: Final = _("Lone surrogates are no text: neither an answer nor the database can hold them.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question for whoever misspelt one of the known names, or nothing."""
    close = get_close_matches(name[:MAX_NAME_SHOWN], list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""


_Row = TypeVar("_Row")
_Model = TypeVar("_Model", bound=Model)


class FieldsMadeOnce(serializers.Serializer[_Row]):
    """Makes its fields once per class: DRF makes them for each request, which takes longer than what they are for.

    They are bound to a serializer that nobody else has, so none of them may ask its parent for context or data.
    """

    @cached_property
    def fields(self) -> BindingDict:
        """The fields, in a collection of its own."""
        own = BindingDict(self)
        own.fields.update(_fields_of(cast(Hashable, type(self))))
        return own


class RowSerializer(FieldsMadeOnce[_Model], serializers.ModelSerializer[_Model]):
    """Shows rows of a model by fields that are its attributes, or methods of this.

    DRF finds out for each value of each row how it is read, which takes longer than reading it.
    """

    def to_representation(self, instance: _Model) -> dict[str, Any]:
        """The row, by field."""
        return {
            name: None if (value := read(instance)) is None else show(value)
            for name, read, show in self._readers
        }

    @cached_property
    def _readers(self) -> "list[_Reader]":
        """Those of the fields that this one has."""
        own = self.fields.fields
        return [reader for reader in _readers_of(cast(Hashable, type(self))) if reader[0] in own]


# A field's name, how its value is read, and how that is shown.
_Reader: TypeAlias = tuple[str, Callable[[Any], Any], Callable[[Any], Any]]


@cache
def _readers_of(serializer_class: Any) -> list[_Reader]:
    return [
        (name, _reading(field, serializer_class.Meta.model), field.to_representation)
        for name, field in _fields_of(serializer_class).items()
        if not field.write_only
    ]


def _reading(field: Any, model: Any) -> Callable[[Any], Any]:
    is_plain = type(field).get_attribute is serializers.Field.get_attribute and field.source != "*"
    if is_plain and hasattr(model, field.source_attrs[0]):
        return attrgetter(field.source)
    get_attribute: Callable[[Any], Any] = field.get_attribute
    return get_attribute


@cache
def _fields_of(serializer_class: Any) -> dict[str, Any]:
    serializer = serializer_class()
    made = BindingDict(serializer)
    for name, field in serializer.get_fields().items():
        made[name] = field
    return dict(made.fields)


class StrictSerializer(FieldsMadeOnce[Any]):
    """Refuses fields it does not know (DRF drops them in silence), and says at once all that is wrong."""

    # The field that is meant by what other APIs call it.
    elsewhere: Mapping[str, str] = {}

    def form_choices(self) -> dict[str, list[tuple[str, str]]]:
        """What a form offers for fields whose values depend on what there is: value and words, by field."""
        return {}

    def get_fields(self) -> Any:
        """The fields; those with choices list them where another is given."""
        fields = super().get_fields()
        for field in fields.values():
            choice = getattr(field, "child", field)
            if isinstance(choice, serializers.ChoiceField):
                known = ", ".join(str(name) for name in choice.choices if name != "")
                choice.error_messages["invalid_choice"] = (
                    f'"{{input}}" is not a valid choice. Known: {known}.'
                )
        return fields

    def to_internal_value(self, data: Any) -> Any:
        """The validated values. Raises ValidationError that names each field to blame."""
        if not isinstance(data, Mapping):
            return super().to_internal_value(data)
        errors: dict[str, Any] = self._unknown_errors(data)
        values: dict[str, Any] = {}
        for field in self._writable_fields:
            name = str(field.field_name)
            if wrong := self._shape_error(data, name):
                errors[name] = [wrong]
                continue
            try:
                value = field.run_validation(field.get_value(data))
                validate = getattr(self, f"validate_{name}", None)
                values[name] = validate(value) if validate else value
            except serializers.ValidationError as error:
                errors[name] = error.detail
            except ValidationError as error:
                errors[name] = get_error_detail(error)
            except SkipField:
                pass
        if errors:
            raise serializers.ValidationError(self.further_errors(values, failed=errors.keys()) | errors)
        return values

    def further_errors(self, values: dict[str, Any], *, failed: Collection[str]) -> dict[str, Any]:
        """What is wrong with the fields that could be read beside those that could not, by field."""
        return {}

    def _unknown_errors(self, data: Mapping[str, Any]) -> dict[str, Any]:
        # A browser's form carries Django's token beside the fields.
        unknown = sorted(
            map(str, set(data.keys()) - set(self.fields) - {"csrfmiddlewaretoken"} - self._parts(data))
        )
        known = sorted(self.fields)
        return {
            text_shown(name)[:MAX_NAME_SHOWN]: [
                serializers.ErrorDetail(
                    f"Unknown field.{self._meant(name)} Known: {', '.join(known)}.", "unknown_field"
                )
            ]
            for name in unknown[:MAX_UNKNOWN_NAMED]
        }

    def _meant(self, name: str) -> str:
        """A question for whoever knows a field by another API's word, or misspelt it; or nothing."""
        word = self.elsewhere.get(name.lower())
        return f" Did you mean {word}?" if word else did_you_mean(name, sorted(self.fields))

    def _parts(self, data: Any) -> set[str]:
        """The keys of a form that are parts of a field, such as `loras[0][lora]` of `loras`."""
        owners = [field for field in self.fields.values() if isinstance(field, FormListField)]
        return {key for key in data if any(field.has_part(key) for field in owners)} if owners else set()

    def _shape_error(self, data: Any, name: str) -> serializers.ErrorDetail | None:
        if hasattr(data, "getlist"):
            return self._form_error(data.getlist(name), name)
        return self._value_error(data.get(name), name) if isinstance(data, dict) else None

    def _form_error(self, values: list[Any], name: str) -> serializers.ErrorDetail | None:
        """What only a form can do wrong: DRF takes the last of several values, and a file's name for its text."""
        field = self.fields[name]
        holds_files = isinstance(getattr(field, "child", field), serializers.FileField)
        if len(values) > 1 and not isinstance(field, serializers.ListField):
            return serializers.ErrorDetail("Given more than once.", "repeated")
        is_file = bool(values) and isinstance(values[0], UploadedFile)
        if is_file and not holds_files:
            return serializers.ErrorDetail("A file, where text is expected.", "unexpected_file")
        return None

    def _value_error(self, value: Any, name: str) -> serializers.ErrorDetail | None:
        """What only JSON can do wrong: a number for text, which DRF would take for its digits, and what is no text."""
        if isinstance(value, int | float) and isinstance(self.fields[name], serializers.CharField):
            return serializers.ErrorDetail("Not a valid string.", "invalid")
        return None if _is_text(value) else serializers.ErrorDetail(str(SURROGATE), "surrogate")


class BoundedListField(serializers.ListField):
    """A list whose length is looked at before what is in it: DRF reads millions of children, then counts them.

    A form gives files one by one, and anything else as text, separated by commas or blanks; none is left out.
    """

    def get_value(self, dictionary: Any) -> Any:
        """What was given."""
        if not hasattr(dictionary, "getlist"):
            return super().get_value(dictionary)
        if isinstance(self.child, serializers.FileField):
            # A browser's form has an empty text in the place of files that nobody chose.
            return [one for one in dictionary.getlist(self.field_name) if one != ""] or serializers.empty
        found = [part for text in dictionary.getlist(self.field_name) for part in _parted(text)]
        return found or serializers.empty

    def to_internal_value(self, data: Any) -> list[Any]:
        """The values. Raises ValidationError."""
        if isinstance(data, list | tuple) and self.max_length is not None and len(data) > self.max_length:
            message = self.error_messages["max_length"].format(max_length=self.max_length)
            raise serializers.ValidationError([message], "max_length")
        values: list[Any] = super().to_internal_value(data)
        return values


@dataclass(frozen=True)
class _FormValues:
    """What a form says about one list: the field itself, each time it was given, and its parts by index and name."""

    whole: list[str]
    parts: dict[int, dict[str, Any]]


class FormListField(BoundedListField):
    """A list of objects that a form can give, too: as JSON text, by repeating the field, or in parts with brackets.

    `loras=[{"lora": "a"}]`, `loras={"lora": "a"}&loras=b` or `loras[0][lora]=a&loras[0][scale]=0.5`. Text that is no
    JSON stands for an object with that text as its `main` value.
    """

    def __init__(self, *, main: str, **options: Any) -> None:
        super().__init__(**options)
        self.main = main

    def has_part(self, key: Any) -> bool:
        """Whether a form's key is a part of this field."""
        return self._part(str(key)) is not None

    def _part(self, key: str) -> re.Match[str] | None:
        return re.fullmatch(
            rf"{re.escape(str(self.field_name))}\[(?P<index>[0-9]{{1,3}})\]\[(?P<name>[a-z_]+)\]", key
        )

    def get_value(self, dictionary: Any) -> Any:
        """What was given; a form's empty field is as good as left out."""
        if not hasattr(dictionary, "getlist"):
            return dictionary.get(self.field_name, serializers.empty)
        whole = [value for value in dictionary.getlist(self.field_name) if value != ""]
        parts: dict[int, dict[str, Any]] = {}
        for key in dictionary:
            if (match := self._part(key)) and (values := [v for v in dictionary.getlist(key) if v != ""]):
                parts.setdefault(int(match["index"]), {})[match["name"]] = (
                    values[0] if len(values) == 1 else values
                )
        return _FormValues(whole, parts) if whole or parts else serializers.empty

    def to_internal_value(self, data: Any) -> list[Any]:
        """The values. Raises ValidationError."""
        if not isinstance(data, _FormValues):
            return super().to_internal_value(data)
        if data.whole and data.parts:
            raise serializers.ValidationError("Given in two ways; choose one.", "repeated")
        if data.parts:
            return super().to_internal_value([data.parts[index] for index in sorted(data.parts)])
        return super().to_internal_value([item for text in data.whole for item in self._read(text)])

    def _read(self, text: str) -> list[Any]:
        if not text.lstrip().startswith(("[", "{")):
            return [{self.main: text}]
        if len(text) > MAX_FORM_JSON_CHARACTERS:
            raise serializers.ValidationError("The JSON text is too long.", "invalid_json")
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise serializers.ValidationError("The text is not valid JSON.", "invalid_json") from error
        items = value if isinstance(value, list) else [value]
        if not _is_text(items):
            raise serializers.ValidationError(SURROGATE, "surrogate")
        return items


def _parted(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _no_constant(name: str) -> NoReturn:
    """NaN and the infinities, which JSON does not have."""
    raise ValueError(name)


class TextField(serializers.CharField):
    """Text that PostgreSQL can store: no NUL (DRF's rule) and no lone surrogate, which has no UTF-8 form."""

    default_error_messages = {"surrogate": SURROGATE}

    def to_internal_value(self, data: Any) -> str:
        """The text. Raises ValidationError."""
        value: str = super().to_internal_value(data)
        if not _is_text(value):
            self.fail("surrogate")
        return value


def _is_text(value: Any) -> bool:
    """Whether every string in a decoded JSON value has a form in UTF-8. Without recursion: it may be nested deeply."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str) and not item.isascii():
            try:
                item.encode()
            except UnicodeEncodeError:
                return False
    return True
