"""Failpoints of the service's processes: Python imports this at its start wherever this folder is on PYTHONPATH.

`FAILPOINTS_DIR` names a folder. A file in it arms the named transition: an empty one ends the first process that comes
there, with SIGKILL; a number in it is the chance that a process ends there, each time. Deaths are noted in its file
`deaths`: transition, time, process.

    accepted     web      the row is committed; neither the feed nor a worker has been told
    claiming     worker   inside the claim's transaction
    claimed      worker   behind it: the row says running
    attaching    worker   a LoRA is being put on a model
    step         worker   during a step
    drawn        worker   the pictures exist in memory only
    storing      worker   one of several files has been written
    written      worker   all have been, and the row says running
    moved        worker   inside the final move's transaction
    committed    worker   behind it: no follower has been told
    canceling    worker   a running job stopped for a cancel, and the row does not say so yet
    taking_back  sweeper  inside the transaction that takes back an expired lease

Two words of a prompt matter too: with "slow" each step takes `SLOW_STEP_S` longer, and where `HANG_ONCE` names a file
that is not there, the first step with "hang" makes it and then sleeps in C without giving Python's lock back, as a
driver that hangs would.
"""

# ruff: noqa: INP001 - Python looks for a lone module of this name

import ctypes
import dataclasses
import importlib.abc
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(os.environ.get("FAILPOINTS_DIR", "/nonexistent"))
HANG_ONCE = Path(os.environ.get("HANG_ONCE", "/dev/null"))
SLOW_STEP_S = float(os.environ.get("SLOW_STEP_S", "0"))
FOREVER_S = 100_000
MOVED = {"running": "claiming", "succeeded": "moved"}


def reach(name: str) -> None:
    """Ends this process, at once and without a word, where the transition is armed."""
    armed = FOLDER / name
    try:
        chance = armed.read_text()
        if chance and random.random() > float(chance):
            return
        if not chance:
            armed.unlink()  # of several processes, one gets here
    except FileNotFoundError:
        return
    with (FOLDER / "deaths").open("a") as deaths:
        deaths.write(f"{name} {time.time()} {os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def engine_points(module: Any) -> None:
    """What happens at a step."""
    real = module.Sheet.add

    def add(self: Any, batch: Any, listeners: Any) -> Any:
        def step_reached(step: int, total_steps: int) -> None:
            listeners.on_step(step, total_steps)
            if "slow" in batch.prompt:
                time.sleep(SLOW_STEP_S)
            if "hang" in batch.prompt and not HANG_ONCE.exists():
                HANG_ONCE.touch()
                ctypes.PyDLL(None).sleep(FOREVER_S)
            reach("step")

        return real(self, batch, dataclasses.replace(listeners, on_step=step_reached))

    module.Sheet.add = add


def attempts_points(module: Any) -> None:
    """A claim, and the end of an attempt."""
    claim = module.generation_claim
    succeed, cancel = module.attempt_succeed, module.attempt_cancel

    def claim_reached(**options: Any) -> Any:
        generation = claim(**options)
        if generation is not None:
            reach("claimed")
        return generation

    def succeed_reached(**options: Any) -> Any:
        reach("drawn")
        return succeed(**options)

    def cancel_reached(**options: Any) -> Any:
        reach("canceling")
        return cancel(**options)

    module.generation_claim = claim_reached
    module.attempt_succeed, module.attempt_cancel = succeed_reached, cancel_reached


def trials_points(module: Any) -> None:
    """A LoRA that is put on a model."""
    on_trial = module.attach_on_trial

    @contextmanager
    def on_trial_reached(use: Any, *, worker: str) -> Iterator[None]:
        with on_trial(use, worker=worker):
            reach("attaching")
            yield

    module.attach_on_trial = on_trial_reached


def files_points(module: Any) -> None:
    """The files of an attempt."""
    store = module.image_store

    def store_reached(generation: Any, image: Any) -> Any:
        name = store(generation, image)
        if image.index + 1 < generation.num_images:
            reach("storing")
        return name

    module.image_store = store_reached


def transitions_points(module: Any) -> None:
    """A move, and what follows it."""
    move, ended, begin = module.generation_move, module.generation_ended, module.event_begin

    def move_reached(**options: Any) -> Any:
        if options["to"] == "succeeded":
            reach("written")
        moved = move(**options)
        if moved and options["to"] in MOVED:
            reach(MOVED[options["to"]])
        return moved

    def ended_reached(generation: Any, **options: Any) -> None:
        if generation.status == "succeeded":
            reach("committed")
        ended(generation, **options)

    def begin_reached(*arguments: Any, **data: Any) -> None:
        reach("accepted")
        begin(*arguments, **data)

    module.generation_move, module.generation_ended = move_reached, ended_reached
    module.event_begin = begin_reached


def sweep_points(module: Any) -> None:
    """A lease that is taken back."""

    def reaching(move: Callable[..., Any]) -> Callable[..., Any]:
        def move_reached(**options: Any) -> Any:
            moved = move(**options)
            reach("taking_back")
            return moved

        return move_reached

    module.generation_requeue = reaching(module.generation_requeue)
    module.generation_end = reaching(module.generation_end)


CHANGES: dict[str, Callable[[Any], None]] = {
    "generation.engine.engine": engine_points,
    "generation.attempts": attempts_points,
    "generation.gpu_worker.trials": trials_points,
    "generation.pictures.files": files_points,
    "generation.transitions": transitions_points,
    "generation.upkeep.sweep": sweep_points,
}


class Failpoints(importlib.abc.MetaPathFinder):
    """Changes those modules as soon as each has been imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, with a loader that changes it."""
        change = CHANGES.get(name)
        spec = PathFinder.find_spec(name, path, target) if change else None
        if change is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Failpoints())
