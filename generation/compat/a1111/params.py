"""A request's parameters as A1111 takes them: forgiving, and with a warning for whatever has no effect."""

import math
from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings
from rest_framework import serializers

from generation.compat.dialect import Params, warning
from imagegen_project.common.serializers import MAX_UNKNOWN_NAMED

_MAX_NAME_SHOWN: Final = 100
_UNKNOWN: Final = "Not known here; nothing is done with it."


class LenientParams(Params):
    """Parameters of which those that nothing here follows are warned of by name.

    Their values are never repeated: clients send tokens and addresses in fields of their own.
    """

    def note(self, name: str, reason: str, used: Any = None) -> None:
        """Warns of a parameter."""
        self.warnings.append(warning(_shown(self.named(name)), reason, used))

    def within(self, name: str, *, low: float, high: float, whole: bool = False) -> Any:
        """A number, moved to the nearer bound with a warning; None where it is absent, or none."""
        value = self.take(name)
        if value is None:
            return None
        try:
            given = (serializers.IntegerField() if whole else serializers.FloatField()).run_validation(value)
        except serializers.ValidationError as error:
            self.errors.setdefault(self.named(name), error.detail)
            return None
        if not math.isfinite(given):
            self.blame(name, "A valid number is required.")
            return None
        used = min(max(given, low), high)
        if used != given:
            self.note(name, f"Here it goes from {low:g} to {high:g}.", used=used)
        return used

    def fields(self, name: str) -> Mapping[str, Any]:
        """An object, empty where it is absent."""
        value = self.take(name, {})
        if isinstance(value, Mapping):
            return value
        self.blame(name, "A JSON object is expected.")
        return {}

    def not_followed(self, reasons: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
        """Takes parameters by their table: the values that ask for nothing, and what is said of any other."""
        for name, (neutral, reason) in reasons.items():
            value = self.take(name)
            if value is not None and value not in neutral:
                self.note(name, reason)

    def end(self) -> None:
        """Warns of each parameter that nobody took, the first of them by name."""
        names = sorted(self.rest())
        for name in names[:MAX_UNKNOWN_NAMED]:
            self.note(name, _UNKNOWN)
        if len(names) > MAX_UNKNOWN_NAMED:
            self.note("...", f"{len(names) - MAX_UNKNOWN_NAMED} more are not known here.")

    def strict_check(self) -> None:
        """Notes what is warned of as errors, where A1111_STRICT is set."""
        for entry in self.warnings if settings.A1111_STRICT else []:
            self.errors.setdefault(entry["param"], serializers.ErrorDetail(entry["reason"], "unsupported"))


def _shown(name: str) -> str:
    """A name that any log and any database can hold."""
    text = name[:_MAX_NAME_SHOWN].encode("ascii", "backslashreplace").decode()
    return "".join(character if character.isprintable() else "?" for character in text)
