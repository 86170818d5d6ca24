"""The admin's words: what the code calls a checkpoint and an adapter is a model and a LoRA to those who read."""

import re
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from generation.choices import CommandKind
from generation.lora_uses import LoraWish
from generation.models import Worker, WorkerCommand
from models_registry.models import Checkpoint
from tests.support.factories import GenerationMaker, LoraMaker

BUILTIN = "/admin/models_registry/checkpoint/builtin"


@pytest.fixture
def page(client: Client, superuser: User) -> Client:
    """A browser in which somebody is signed in who may do everything."""
    client.force_login(superuser)
    return client


def words_of(answer: Any) -> str:
    """What stands on a page, without its marks and scripts."""
    bare = re.sub(r"(?s)<(script|style)\b.*?</\1>", "", answer.content.decode())
    return re.sub(r"(?s)<[^>]*>", " ", bare)


def test_pages_speak_of_models_and_lora(
    page: Client, make: GenerationMaker, make_lora: LoraMaker, worker: Worker, superuser: User
) -> None:
    """Lists with their columns and filters, forms, a user's permissions, and the page before a delete."""
    generation = make(loras=[LoraWish(1.0, lora=make_lora())])
    builtin = Checkpoint.objects.get(id="builtin")
    WorkerCommand.objects.create(worker=worker, kind=CommandKind.LOAD, checkpoint=builtin)
    addresses = ["/admin/", f"{BUILTIN}/delete/", f"/admin/generation/generation/{generation.pk}/delete/"]
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        addresses.append(reverse(f"{name}_changelist"))
        # RQ's pages have no table.
        if model._meta.managed and (first := model._default_manager.first()):
            addresses.append(reverse(f"{name}_change", args=[first.pk]))
    pages = {address: page.get(address) for address in addresses}
    assert {address for address, answer in pages.items() if answer.status_code != 200} == set()
    assert {
        (address, word)
        for address, answer in pages.items()
        for word in re.findall(r"(?i)\w*(?:checkpoint|adapter)\w*", words_of(answer))
    } == set()
    assert "Can change model" in words_of(pages[f"/admin/auth/user/{superuser.pk}/change/"])


@pytest.mark.django_db
def test_an_update_renames_the_permissions_that_are_there() -> None:
    """They keep the words of the version that made them; groups and users point to the rows."""
    named = Permission.objects.filter(content_type__model__in=("checkpoint", "lora", "generationlora"))
    new = dict(named.values_list("codename", "name"))
    assert len(new) == 12
    named.update(name="Can change checkpoint")
    import_module("generation.migrations.0023_permission_names").permissions_rename(apps, None)
    assert dict(named.values_list("codename", "name")) == new


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_size": 4000}, "The smallest size is 8 or more, and not above the largest."),
        (
            {"default_width": 4000},
            "The default width and height lie between the smallest size and the largest.",
        ),
    ],
)
def test_sizes_that_contradict_each_other_are_said_in_words(
    page: Client, changes: dict[str, int], said: str
) -> None:
    form = page.get(f"{BUILTIN}/change/").context["adminform"].form
    values = {name: form.initial[name] for name in form.fields if form.initial.get(name) is not None}
    answer = page.post(f"{BUILTIN}/change/", values | changes)
    assert answer.status_code == 200
    assert said in answer.content.decode()
