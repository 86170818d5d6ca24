"""How a new generation comes into the queue."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from generation.choices import Kind, OutputFormat
from generation.models import MAX_SEED, Generation, GenerationRequest
from generation.queue.admission import generation_admit
from models_registry.selectors import checkpoint_default

PROMPT = "a \"red\" circle, 100 % of it \\ 'so' {0} 🔴\n\tbelow %(id)s"


@pytest.mark.django_db
def test_every_column_is_stored_as_it_was_given(owner: User) -> None:
    """Text, numbers of any size, lists, words of the site's own, and what is not known."""
    request = GenerationRequest(
        checkpoint=checkpoint_default(),
        kind=Kind.EDIT,
        prompt=PROMPT,
        width=256,
        height=512,
        num_inference_steps=4,
        guidance_scale=7.1,
        guidance_rescale=0.1 + 0.2,
        seed=MAX_SEED,
        output_format=OutputFormat.WEBP,
        priority=-3,
        timeout_s=60,
        webhook_url="https://example.com/a?b='c'",
        webhook_events=["succeeded", "failed"],
        reproducible=True,
    )
    generation = Generation(
        owner=owner,
        warnings=[{"param": "prompt", "reason": "Two\nlines", "used": None}],
        input_images=["a.png", 'b "quoted", too.png'],
        base_url="http://localhost",
        cancel_requested_at=timezone.now() - timedelta(microseconds=1),
        **request.columns(),
    )
    with transaction.atomic():
        generation_admit(generation)
    stored = Generation.objects.get(pk=generation.pk)
    names = [field.attname for field in Generation._meta.concrete_fields]
    assert {name: getattr(stored, name) for name in names} == {
        name: getattr(generation, name) for name in names
    }
    assert stored.turn == 1
