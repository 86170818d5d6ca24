"""The torch room: everything that touches a pipeline. Imports neither Django nor RQ."""

from generation.engine.engine import Engine
from generation.engine.errors import EngineError, EngineModelUnavailable, EngineOutOfMemory, EngineStopped
from generation.engine.specs import Batch, BatchResult, ModelRef, Picture

__all__ = [
    "Batch",
    "BatchResult",
    "Engine",
    "EngineError",
    "EngineModelUnavailable",
    "EngineOutOfMemory",
    "EngineStopped",
    "ModelRef",
    "Picture",
]
