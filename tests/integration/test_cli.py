"""`imagegen` as people type it, against a running service."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.live import Live
from tests.support.service import SAFETY_S, environment


class Typed:
    """The command, in a folder of its own, with the data folder of a running service."""

    def __init__(self, live: Live, folder: Path) -> None:
        self.live = live
        self.folder = folder

    def __call__(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "imagegen_project", *arguments],
            cwd=self.folder,
            env=environment()
            | {"DATA_DIR": str(self.live.service.data_dir), "PYTHONPATH": str(Path(__file__).parents[2])}
            | variables,
            capture_output=True,
            text=True,
            timeout=SAFETY_S,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """What it prints with `--json`, which has to succeed."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def imagegen(live: Live, tmp_path: Path) -> Typed:
    return Typed(live, tmp_path)


QUICK = ("--steps", "2", "--size", "256x256")


def test_generate_draws_shows_progress_and_prints_the_receipt(imagegen: Typed) -> None:
    """By the data folder's address and token, with nothing set; then from that picture, with a mask and a LoRA."""
    done = imagegen("generate", "a blue star", "--seed", "7", "--out", "star.png", *QUICK)
    assert done.returncode == 0, done.stderr
    with Image.open(imagegen.folder / "star.png") as picture:
        assert picture.size == (256, 256)
        Image.new("L", picture.size, 255).save(imagegen.folder / "mask.png")
    assert done.stdout.startswith("star.png\n  seed 7, model builtin, 256x256, 2 steps")
    assert "step 2/2" in done.stderr
    drawn = imagegen.json(
        "generate", "a red circle", "--image", "star.png", "--mask", "mask.png", "--lora", "pastel:0.5",
        "--strength", "0.9", "--steps", "4", "--set", "guidance_scale=3",
    )  # fmt: skip
    job = drawn["generation"]
    assert (job["kind"], job["strength"], job["guidance_scale"]) == ("inpaint", 0.9, 3)
    assert [(lora["name"], lora["scale"]) for lora in job["loras"]] == [("pastel", 0.5)]
    assert drawn["receipt"]["job_id"] == job["id"]
    assert (imagegen.folder / "out.png").stat().st_size == job["images"][0]["size_bytes"]


def test_tail_follows_a_job_to_its_end(imagegen: Typed) -> None:
    """A line each, without pictures in them; the exit status says how it ended."""
    job = imagegen.live.create(preview_every=1)
    done = imagegen("tail", job["id"], "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["type"] == "succeeded"
    assert not [event for event in events if "preview" in event]
    words = imagegen("tail")
    assert words.returncode == 0
    assert words.stdout.splitlines()[-1].endswith("succeeded")
    slow = imagegen.live.occupy()
    imagegen.live.http.post(f"/api/v1/generations/{slow['id']}/cancel")
    assert imagegen("tail", slow["id"]).returncode == 1


def test_models_are_listed_loaded_and_unloaded(imagegen: Typed) -> None:
    table = imagegen("models").stdout
    assert "builtin " in table
    assert {model["id"] for model in imagegen.json("models")} >= {"builtin", "sd-xl-base"}
    for verb in ("load", "unload"):
        done = imagegen(verb, "builtin")
        assert done.returncode == 0, done.stderr
        assert f"builtin: {verb}ed (" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "said"),
    [
        (("generate", "x", "--steps", "0"), {}, 2, "steps: "),
        (("generate", "x", "--model", "nowhere"), {}, 2, "nowhere"),
        (("generate", "x", "--out", "missing/x.png"), {}, 2, "There is no folder"),
        (("generate", "x", "--image", "missing.png"), {}, 2, "cannot be read"),
        (("tail", "0198c5d2-7a51-7c3e-9a40-5f1d8a1c2b3d"), {}, 2, "No generation"),
        (("load", "nowhere"), {}, 2, "nowhere"),
        (("prefetch-models", "nowhere"), {}, 2, "imagegen: No model is called 'nowhere'"),
        (("generate", "x"), {"IMAGEGEN_TOKEN": "img_wrong"}, 4, "tokens create"),
    ],
)
def test_refusals_say_why_and_have_a_status(
    imagegen: Typed, arguments: tuple[str, ...], variables: dict[str, str], status: int, said: str
) -> None:
    done = imagegen(*arguments, **variables)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_local_token_is_sent_to_this_machine_only(imagegen: Typed) -> None:
    """Another host gets none unless one is given."""
    from argparse import Namespace

    from imagegen_project.cli.connection import client_of

    client = client_of(Namespace(url="http://images.example.com", token=""))
    assert client._authorization == {}


def test_status_workers_and_doctor_look_at_the_same_service(imagegen: Typed) -> None:
    """Nothing is wrong with it but that the Hub may be out of reach."""
    [alive] = [worker for worker in imagegen.json("workers") if worker["alive"]]
    assert alive["version"]
    assert imagegen.json("status")["workers"][0]["name"] == alive["name"]
    done = imagegen("doctor", "--json", "--port", str(imagegen.live.service.port))
    found = json.loads(done.stdout)
    well = {finding["check"] for finding in found["findings"] if finding["state"] == "ok"}
    assert {"settings", "libraries", "postgresql", "migrations", "clock", "redis", "port", "workers"} <= well
