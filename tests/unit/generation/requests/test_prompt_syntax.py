"""Prompts with weights at the doors: by the native field, and always on A1111's routes."""

import pytest
from rest_framework.test import APIClient

from generation.models import Generation
from models_registry.models import Checkpoint
from models_registry.pipeline_facts import PIPELINES

pytestmark = pytest.mark.django_db
REQUEST = {"prompt": "a (red:1.3) circle", "width": 256, "height": 256}


def test_it_is_asked_for_and_kept(api: APIClient) -> None:
    """Plain where nothing is said; another word is refused."""
    for asked, stored in (({}, "plain"), ({"prompt_syntax": "weighted"}, "weighted")):
        answer = api.post("/api/v1/generations", REQUEST | asked, format="json")
        assert answer.status_code == 202, answer.json()
        assert Generation.objects.get(pk=answer.json()["id"]).prompt_syntax == stored
    answer = api.post("/api/v1/generations", REQUEST | {"prompt_syntax": "loud"}, format="json")
    assert [error["param"] for error in answer.json()["errors"]] == ["prompt_syntax"]


def test_where_prompts_have_no_weights_it_is_said(api: APIClient) -> None:
    Checkpoint.objects.filter(pk="builtin").update(pipeline="FluxPipeline")
    answer = api.post("/api/v1/generations", REQUEST | {"prompt_syntax": "weighted"}, format="json")
    assert answer.status_code == 202, answer.json()
    assert "prompt_syntax" in [warning["param"] for warning in answer.json()["warnings"]]
    assert Generation.objects.get(pk=answer.json()["id"]).prompt_syntax == "plain"


def test_only_clips_encoders_take_weights() -> None:
    """The pipelines whose denoiser is a U-Net."""
    taking = {name for name, facts in PIPELINES.items() if facts.weighted_prompts}
    assert taking == {
        *(f"StableDiffusion{kind}Pipeline" for kind in ("", "Inpaint", "XL", "XLInpaint")),
    }
