"""The torch room: everything that touches a pipeline. Imports neither Django nor RQ."""

from generation.engine import libraries  # noqa: F401 - before any other of these imports one
from generation.engine.drawing import Drawn, Listeners
from generation.engine.engine import Engine, Sheet, SheetRow
from generation.engine.errors import (
    EngineAdapterUnusable,
    EngineDeviceLost,
    EngineError,
    EngineModelBroken,
    EngineModelUnavailable,
    EngineOutOfMemory,
    EngineRefused,
    EngineStopped,
    EngineUnsafe,
)
from generation.engine.safety import SafetySettings
from generation.engine.specs import AdapterUse, Batch, BatchResult, CachedModel, ModelRef, Picture

__all__ = [
    "AdapterUse",
    "Batch",
    "BatchResult",
    "CachedModel",
    "Drawn",
    "Engine",
    "EngineAdapterUnusable",
    "EngineDeviceLost",
    "EngineError",
    "EngineModelBroken",
    "EngineModelUnavailable",
    "EngineOutOfMemory",
    "EngineRefused",
    "EngineStopped",
    "EngineUnsafe",
    "Listeners",
    "ModelRef",
    "Picture",
    "SafetySettings",
    "Sheet",
    "SheetRow",
]
