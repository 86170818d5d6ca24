"""The torch room: everything that touches a pipeline. Imports neither Django nor RQ."""

from generation.engine.engine import Engine
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
    "ModelRef",
    "Picture",
    "SafetySettings",
]
