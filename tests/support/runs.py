"""A claimed generation from its row to its end, in one thread."""

from typing import Any

from generation.choices import Status
from generation.engine import Batch, BatchResult
from generation.feed.publisher import Publisher
from generation.gpu_worker.run import Run, run_end, run_listeners, run_prepare


def run_alone(run: Run, engine: Any, publisher: Publisher) -> Status | None:
    """Draws it by an engine's `run`, and ends it."""

    def outcome() -> tuple[Batch, BatchResult]:
        batch = run_prepare(run)
        heard = run_listeners(run, publisher)
        return batch, engine.run(
            batch,
            on_drawing=heard.on_drawing,
            on_step=heard.on_step,
            on_preview=heard.on_preview,
            on_warning=heard.on_warning,
            should_stop=heard.should_stop,
        )

    return run_end(run, publisher, outcome)
