"""Quantized repositories in a running service: drawn with, or refused with what to install."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub import HubDouble
from tests.support.hub_repository import HubRepository
from tests.support.live import REGISTER, SIDE, Hubbed

LIBRARIES = ("bitsandbytes", "torchao")


def register(live: Hubbed, *names: str) -> None:
    """Repositories of FLUX.1 as models of the service."""
    live.shell(REGISTER.format(families=dict.fromkeys(names, "flux"), side=SIDE))


def answer_of(live: Hubbed, method: str, address: str, **body: Any) -> tuple[int, dict[str, Any]]:
    """Status and body of an answer."""
    answer = live.http.request(method, f"/api/v1/{address}", json=body or None)
    return answer.status_code, answer.json()


@pytest.mark.skipif(
    all(importlib.util.find_spec(library) for library in LIBRARIES), reason="both libraries are installed"
)
def test_without_its_library_it_is_refused_with_what_to_install(
    hubbed: Hubbed, live_hub: HubDouble, tmp_path: Path
) -> None:
    """Before weights are fetched; the row says it as well, and a method that nobody reads ends at the door."""
    library = next(name for name in LIBRARIES if importlib.util.find_spec(name) is None)
    register(hubbed, "lacking", "foreign")
    for name, method in (("lacking", library), ("foreign", "quanto")):
        folder = tmp_path / name
        shutil.copytree(hubbed.repository("flux").folder, folder)
        config = folder / "transformer" / "config.json"
        marked = json.loads(config.read_text()) | {"quantization_config": {"quant_method": method}}
        config.write_text(json.dumps(marked))
        repository = HubRepository(live_hub, f"tiny/{name}", folder)
        status, body = answer_of(hubbed, "POST", "models/load", model=f"tiny-{name}")
        assert status >= 400, body
        assert not any(request.path.endswith(".safetensors") for request in repository.requests())
    assert hubbed.model("lacking")["error"] == {
        "code": "unusable",
        "detail": f"Its transformer is quantized by {library}, which is not installed here: "
        f"pip install {library}=={version_of(library)}.",
    }
    status, body = answer_of(hubbed, "POST", "generations", prompt="a circle", model="tiny-foreign")
    assert (status, body["errors"][0]["code"]) == (400, "model_unsupported")
    assert "quantized (quanto)" in body["errors"][0]["detail"]


def version_of(library: str) -> str:
    """As the requirements pin it."""
    lines = (Path(__file__).parents[2] / "requirements-quantized.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{library}==")).split()[0].partition("==")[2]


@pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None,
    reason="torchao is optional and not installed here; make test-quantized has it",
)
@pytest.mark.filterwarnings("ignore")
def test_with_its_library_it_is_drawn_with(hubbed: Hubbed, live_hub: HubDouble, tmp_path: Path) -> None:
    """Also after it was unloaded; the receipt names the library and its version."""
    from tests.support.quantized import quantized_make

    source = hubbed.repository("flux").folder
    HubRepository(live_hub, "tiny/int8", quantized_make(source, tmp_path / "int8", "int8-torchao"))
    register(hubbed, "int8")
    drawn = []
    for _ in range(2):
        status, body = answer_of(
            hubbed,
            "POST",
            "generate/txt2img",
            prompt="a red circle",
            model="tiny-int8",
            steps=2,
            seed=7,
            width=SIDE,
            height=SIDE,
        )
        assert status == 200, body
        drawn.append(body)
        assert [worker["fit"] for worker in hubbed.model("int8")["workers"]] == ["fits"]
        assert answer_of(hubbed, "POST", "models/unload", model="tiny-int8")[0] == 200
    first, again = (body["images"][0]["pixel_sha256"] for body in drawn)
    assert first == again
    receipt = hubbed.http.get(f"/api/v1/generations/{drawn[0]['id']}/receipt").json()
    assert receipt["environment"]["quantized"] == {"transformer": "torchao", "text_encoder_2": "torchao"}
    assert receipt["environment"]["torchao"] == version_of("torchao")
