"""The adapters that ship with the project, for the built-in model."""

from pathlib import Path

from django.db.models import Q

from loras.choices import LoraSource, LoraState
from loras.models import Lora
from loras.reading import read_adapter
from loras.services import facts_values
from models_registry import builtin
from models_registry.weights import file_digests


def loras_register_builtin() -> list[Lora]:
    """Registers the built-in adapters whose files are there, shared with everybody; again is a no-op.

    What an operator disabled stays disabled; a row whose file is no longer there goes.
    """
    files = sorted(builtin.ADAPTERS.glob("*.safetensors"))
    shipped = Lora.objects.filter(source=LoraSource.BUILTIN)
    shipped.exclude(weight_name__in=[path.name for path in files]).delete()
    return [_register(path) for path in files]


def _register(path: Path) -> Lora:
    digests = file_digests(path)
    lora = Lora.objects.filter(source=LoraSource.BUILTIN, weight_name=path.name).first()
    if lora is not None and (lora.sha256, lora.state) == (digests.sha256, LoraState.PRESENT):
        return lora
    with path.open("rb") as file:
        facts = read_adapter(file, size=digests.size)
    lora = lora or Lora(source=LoraSource.BUILTIN, weight_name=path.name, shared=True, name=_name(path))
    values = facts_values(facts) | {"trigger_words": list(facts.trigger_words)}
    values |= {"sha256": digests.sha256, "size_bytes": digests.size}
    values |= {"state": LoraState.PRESENT, "error_code": "", "error_detail": ""}
    for name, value in values.items():
        setattr(lora, name, value)
    lora.save()
    return lora


def _name(path: Path) -> str:
    """The file's name, unless an operator's shared adapter has it."""
    taken = Lora.objects.filter(Q(shared=True), name=path.stem).exists()
    return f"builtin-{path.stem}" if taken else path.stem
