"""A serializer as the fields of an HTML form: its choices, defaults, help and bounds; after an error what was sent."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rest_framework import serializers

LONG_TEXT: Final = 1000
# Fields beside the required ones that are shown at once; the others are folded.
FIELDS_SHOWN: Final = 6
_IN_PATH: Final = re.compile(r"[.\[]")
PICTURES: Final = "image/png,image/jpeg,image/webp"

Sent = Mapping[str, Any]


@dataclass(frozen=True)
class FormField:
    """One field as the template draws it; `kind` is how."""

    name: str
    kind: str
    help: str = ""
    required: bool = False
    value: Any = ""
    choices: list[tuple[str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ").capitalize()


def errors_by_field(problem: Any) -> dict[str, list[str]]:
    """What a problem blames, by the field on top; under "" what no field is to blame for."""
    found: dict[str, list[str]] = {}
    for error in problem.get("errors", []) if isinstance(problem, Mapping) else []:
        found.setdefault(_IN_PATH.split(error["param"])[0], []).append(error["detail"])
    return found


def form_fields(
    serializer: serializers.Serializer[Any], *, sent: Sent | None, errors: dict[str, list[str]]
) -> list[FormField]:
    """The fields, those that are required first."""
    choices: dict[str, list[tuple[str, str]]] = getattr(serializer, "form_choices", dict)()
    found = []
    for name, one in serializer.fields.items():
        if not one.read_only and not str(one.help_text or "").startswith("The same as"):
            found.append(_form_field(name, one, choices.get(name, []), sent, errors.get(name, [])))
    return sorted(found, key=lambda one: not one.required)


def _form_field(
    name: str, one: Any, suggested: list[tuple[str, str]], sent: Sent | None, errors: list[str]
) -> FormField:
    value = _default(one) if sent is None else _sent_value(sent, name)
    shared: dict[str, Any] = {"name": name, "help": str(one.help_text or ""), "required": bool(one.required)}
    shared |= {"errors": errors, "value": value}
    child = getattr(one, "child", None)
    match one:
        case serializers.FileField() | serializers.ListField(child=serializers.FileField()):
            accept = PICTURES if "picture" in type(one).__name__.lower() else ".safetensors"
            attributes = {"accept": accept} | ({"multiple": True} if child else {})
            return FormField(**shared, kind="file", attributes=attributes)
        case serializers.BooleanField():
            # A box that is not ticked sends nothing, so that it is never required.
            shared |= {"value": value in (True, "true", "on", "True", "1"), "required": False}
            return FormField(**shared, kind="checkbox")
        case serializers.ListField():
            shared["help"] = f"{shared['help']} {_list_help(child)}".strip()
            return FormField(**shared, kind="textarea", attributes={"rows": 2, "spellcheck": "false"})
        case serializers.ChoiceField():
            known = [(str(key), str(label)) for key, label in one.choices.items() if key != ""]
            return FormField(**shared, kind="select", choices=_with_none(known, one))
        case serializers.IntegerField() | serializers.FloatField():
            bounds = {"min": one.min_value, "max": one.max_value}
            step = 1 if isinstance(one, serializers.IntegerField) else "any"
            given = {key: bound for key, bound in bounds.items() if bound is not None}
            return FormField(**shared, kind="number", attributes=given | {"step": step})
    if suggested:
        return FormField(**shared, kind="select", choices=_with_none(suggested, one))
    length = getattr(one, "max_length", None)
    if (length or 0) >= LONG_TEXT:
        return FormField(**shared, kind="textarea", attributes={"rows": 2, "maxlength": length})
    return FormField(**shared, kind="text", attributes={"maxlength": length} if length else {})


def _with_none(choices: Iterable[tuple[str, str]], one: Any) -> list[tuple[str, str]]:
    """The choices, behind none where one may choose none."""
    default = _default(one)
    return list(choices) if one.required or default else [("", "default"), *choices]


def _default(one: Any) -> Any:
    """What is filled in at first."""
    default = one.default
    if default is serializers.empty or default is None or callable(default):
        return ""
    return json.dumps(default) if isinstance(default, list | dict) else str(default)


def _sent_value(sent: Sent, name: str) -> Any:
    """What was sent, as text; a file is not sent back."""
    values = sent.getlist(name) if hasattr(sent, "getlist") else [sent.get(name, "")]
    texts = [
        value if isinstance(value, str) else json.dumps(value) for value in values if not _is_file(value)
    ]
    return "\n".join(texts)


def _is_file(value: Any) -> bool:
    return hasattr(value, "read")


def _list_help(child: Any) -> str:
    if isinstance(child, serializers.Serializer):
        return ""  # its own help says how
    if isinstance(child, serializers.ChoiceField):
        return f"Separated by commas: {', '.join(map(str, child.choices))}."
    return "Separated by commas or line ends."
