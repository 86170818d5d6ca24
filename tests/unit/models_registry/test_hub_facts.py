"""A model is added by pasting its address: its facts and its size are read first, then it is saved."""

from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from models_registry.hub_facts import ADDRESS
from models_registry.models import Checkpoint
from tests.support.hub import HubDouble
from tests.support.hub_repository import HubRepository
from tests.support.repositories import write_repository

PAGE = "/admin/models_registry/checkpoint/add/"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("org/name", "org/name"),
        ("https://huggingface.co/org/name", "org/name"),
        ("https://huggingface.co/org/name/tree/main", "org/name"),
        ("https://huggingface.co/org/name/blob/main/model_index.json?x=1", "org/name"),
        ("https://huggingface.co/org/name/", "org/name"),
        ("name", None),
        ("https://huggingface.co/org", None),
        ("../../etc/passwd", None),
    ],
)
def test_addresses(address: str, name: str | None) -> None:
    match = ADDRESS.fullmatch(address)
    assert (match and match["name"]) == name


def test_what_cannot_be_read_is_said_in_the_form(hub_double: HubDouble, admin_client: Client) -> None:
    """And nothing is saved."""
    html = admin_client.get(PAGE, {"address": "org/nothing"}).content.decode()
    assert 'value="org/nothing"' in html
    assert "org/nothing" in html.partition("errorlist")[2].partition("</ul>")[0]
    assert "no address of the Hub" in admin_client.get(PAGE, {"address": "nothing"}).content.decode()


@pytest.mark.django_db
def test_only_who_may_add_models_may_ask(hub_double: HubDouble, client: Client, tmp_path: Path) -> None:
    """It is asked by the service's own token, which may open what others may not see."""
    repository = HubRepository(hub_double, "org/private", write_repository(tmp_path / "repository"))
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename="view_checkpoint"))
    client.force_login(clerk)
    for query in ({}, {"address": repository.name}):
        assert client.get(PAGE, query).status_code == 403


def test_facts_are_read_then_saved(hub_double: HubDouble, admin_client: Client, tmp_path: Path) -> None:
    """The form is filled with them; what has no field is kept beside it."""
    repository = HubRepository(hub_double, "org/New_Name", write_repository(tmp_path / "repository"))
    number = Checkpoint.objects.count()
    answer = admin_client.get(PAGE, {"address": f"https://huggingface.co/{repository.name}"})
    html = answer.content.decode()
    assert "Read from the Hub: " in html
    assert "Nothing is saved yet" in html
    assert Checkpoint.objects.count() == number
    form = answer.context["adminform"].form
    values = {name: form.get_initial_for_field(field, name) for name, field in form.fields.items()}
    assert (values["repository"], values["id"]) == (repository.name, "new-name")
    sent = {name: value for name, value in values.items() if value not in (None, "", False)}
    assert admin_client.post(PAGE, sent).status_code == 302, admin_client.post(PAGE, sent).content
    row = Checkpoint.objects.get(repository=repository.name)
    assert row.size_bytes > 0
    assert row.pipeline
    assert (row.state, len(row.revision)) == ("absent", 40)
