"""What `make gpu` runs on a card runs here on the CPU, with less of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imagegen_project import env

env.configure_torch_process()

from scripts.gpu import wheels_list  # noqa: E402
from tests.gpu.parts import DRAWING, Bench, NoCardError, parts  # noqa: E402
from tests.gpu.running import run  # noqa: E402

pytestmark = pytest.mark.long

HERE = (
    "family sdxl",
    "family flux",
    "in turns",
    "in blocks",
    "float8",
    "quantized",
    "second chance",
    "swaps",
    "cancel",
    "recorded",
    "not recorded",
    "samplers",
    "lost device",
    "speed",
    "host waits",
    "true size sd15",
    "true size sdxl",
    "true size flux",
    "compiled sdxl",
    "compiled flux",
)


ONLY_THERE = ("recorded", "not recorded", "lost device", "host waits", "compiled sdxl", "compiled flux")


@pytest.fixture(scope="module")
def all_parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], str]]:
    """Every part, on small checkpoints."""
    return parts(Bench(tmp_path_factory.mktemp("gpu"), part_mb=16))


@pytest.mark.parametrize("name", HERE)
def test_a_part(all_parts: dict[str, Callable[[], str]], name: str) -> None:
    try:
        assert all_parts[name]()
    except NoCardError:
        assert name in ONLY_THERE


def test_nothing_is_left_out(all_parts: dict[str, Callable[[], str]]) -> None:
    """Here only families: each of them is drawn with elsewhere."""
    assert {name for name in all_parts if not name.startswith("family ")} <= set(HERE)
    assert {f"family {name}" for name in DRAWING} <= all_parts.keys()


def test_each_result_is_told_as_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    def failing() -> str:
        raise AssertionError("black")

    def elsewhere() -> str:
        raise NoCardError

    told = {"one": lambda: "fine", "two": failing, "three": elsewhere}
    assert run(told, seconds=60, skipped=NoCardError) == 1
    assert run(told, seconds=-1, skipped=NoCardError) == 0
    lines = [line.partition(" (")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "one: fine",
        "two: FAILED, AssertionError: black",
        "three: no card",
        *(f"{name}: not begun, out of time" for name in told),
    ]


def test_wheels_are_those_of_the_locks() -> None:
    """What the engine imports first of all."""
    names = {wheel.partition("==")[0] for wheel in wheels_list()}
    assert {"diffusers", "transformers", "peft", "accelerate", "safetensors", "huggingface-hub"} <= names
    assert Path("locks/worker.lock").exists()
