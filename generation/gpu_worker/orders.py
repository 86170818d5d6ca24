"""Orders carried out by this worker: a load beside the job in hand, anything else in its turn behind it."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from django.db import close_old_connections

from generation.choices import CommandKind, ErrorCode
from generation.engine import AdapterUse, Engine, EngineError, EngineModelBroken, EngineModelUnavailable
from generation.gpu_worker.batch import model_ref
from generation.gpu_worker.run import failure_code
from generation.models import WorkerCommand
from generation.orders import command_finish
from loras.files import lora_path
from loras.models import Lora
from models_registry.models import Checkpoint
from models_registry.services import checkpoint_mark_broken

# Somebody's job may wait behind it.
ATTACH_LIMIT_S = 60.0


def _attach_limit() -> Callable[[], str | None]:
    """Answers with a reason to stop once the limit is over."""
    ends_at = time.monotonic() + ATTACH_LIMIT_S
    reason = f"Putting it on a model took longer than {ATTACH_LIMIT_S:g} s."
    return lambda: reason if time.monotonic() > ends_at else None


class Submit(Protocol):
    """What hands work to another thread."""

    def __call__(self, action: Callable[..., None], *arguments: Any) -> None:
        """Returns at once."""


class OrderCarrier:
    """Carries orders out and ends them; `on_carried_out` is called before an order ends."""

    def __init__(
        self, engine: Engine, *, in_pipeline: Submit, beside: Submit, on_carried_out: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._in_pipeline = in_pipeline
        self._beside = beside
        self._on_carried_out = on_carried_out

    def carry_out(self, command: WorkerCommand) -> None:
        """Begins it, and returns at once."""
        if command.kind != CommandKind.LOAD:
            self._in_pipeline(self._carry_out, command)
            return
        checkpoint = cast(Checkpoint, command.checkpoint)
        if checkpoint.error_code:
            self._beside(self._loaded, command, EngineModelUnavailable(checkpoint.error_detail))
            return
        loading = self._engine.load_beside(model_ref(checkpoint))
        # By a thread of its own: the pipeline's is busy with a job, and the reader must not wait for a database.
        loading.add_done_callback(lambda done: self._beside(self._loaded, command, done.exception()))

    def _loaded(self, command: WorkerCommand, error: BaseException | None) -> None:
        close_old_connections()
        try:
            if isinstance(error, EngineModelBroken):
                checkpoint_mark_broken(checkpoint_id=str(command.checkpoint_id), detail=str(error))
            self._end(command, error)
        finally:
            close_old_connections()

    def _carry_out(self, command: WorkerCommand) -> None:
        close_old_connections()
        try:
            match command.kind:
                case CommandKind.UNLOAD:
                    self._engine.unload(str(command.checkpoint_id))
                case CommandKind.ATTACH:
                    self._attach(command)
                case CommandKind.DETACH:
                    self._engine.detach(cast(Lora, command.lora).sha256)
                case CommandKind.DRAIN:
                    os.kill(os.getpid(), signal.SIGTERM)
            self._end(command, None)
        except EngineError as error:
            self._end(command, error)
        finally:
            close_old_connections()

    def _attach(self, command: WorkerCommand) -> None:
        """Puts a LoRA on the model that was named, or on the first resident one that it fits."""
        lora = cast(Lora, command.lora)
        path = lora_path(lora)
        use = AdapterUse(lora.name, lora.sha256, path, 1.0)
        wanted = command.checkpoint_id or ""
        resident = Checkpoint.objects.filter(pk__in=self._engine.resident, family=lora.family)
        checkpoint = resident.filter(pk=wanted).first() if wanted else resident.first()
        if checkpoint is not None:
            self._engine.attach(model_ref(checkpoint), use, should_stop=_attach_limit())

    def _end(self, command: WorkerCommand, error: BaseException | None) -> None:
        self._on_carried_out()
        code = failure_code(error) if error else ErrorCode.ENGINE_ERROR
        command_finish(command=command, error_code=code, detail=str(error or ""))
