"""Tokens made here: by knox, from the command line, and seen in the admin."""

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.core.management.base import BaseCommand
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from knox.models import AuthToken
from pytest_django import Settings
from rest_framework.test import APIClient

from imagegen_project.auth.checks import hub_allow_lists
from imagegen_project.auth.models import HubAccount, LocalToken
from imagegen_project.auth.services import local_user_ensure, token_create

PASSWORD = "correct horse battery"  # noqa: S105 - nobody's

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ada")


def status(bare_api: APIClient, token: str) -> int:
    return int(bare_api.get("/whoami", headers={"Authorization": f"Bearer {token}"}).status_code)


def test_a_local_token_is_its_user(user: User, bare_api: APIClient) -> None:
    """Sent as Bearer, in any case of the scheme; only its hash is kept."""
    token = token_create(user=user, expires_in=None)
    assert token.startswith("img_")
    answer = bare_api.get("/whoami", headers={"Authorization": f"bEARER {token}"})
    assert answer.json() == {"username": "ada", "kind": "local"}
    row = AuthToken.objects.get()
    assert row.expiry is None
    assert token not in (row.digest, row.token_key)


def test_a_local_token_expires(user: User, bare_api: APIClient) -> None:
    """After its time it is a 401 as an unknown one."""
    token = token_create(user=user, expires_in=timedelta(days=1))
    assert status(bare_api, token) == 200
    AuthToken.objects.update(expiry=timezone.now() - timedelta(seconds=1))
    assert status(bare_api, token) == 401


def test_a_users_expired_tokens_go_when_another_is_used(user: User, bare_api: APIClient) -> None:
    """They would count among the many that a user may have."""
    token_create(user=user, expires_in=timedelta(days=1))
    AuthToken.objects.update(expiry=timezone.now() - timedelta(seconds=1))
    token = token_create(user=user, expires_in=None)
    assert status(bare_api, token) == 200
    assert AuthToken.objects.get().expiry is None


@pytest.mark.parametrize("token", ["img_", "img_deadbeef", "img_" + "0" * 64, "img_ü"])
def test_an_unknown_local_token_is_refused(user: User, bare_api: APIClient, token: str) -> None:
    """What was not made here is a 401 with the challenge."""
    token_create(user=user, expires_in=None)
    answer = bare_api.get("/whoami", headers={"Authorization": f"Bearer {token}".encode().decode("latin-1")})
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    assert answer["WWW-Authenticate"] == 'Bearer realm="imagegen", error="invalid_token"'


def test_a_deactivated_user_is_refused(user: User, bare_api: APIClient) -> None:
    """Deactivating the user shuts all tokens out."""
    token = token_create(user=user, expires_in=None)
    User.objects.update(is_active=False)
    assert status(bare_api, token) == 401


def test_the_local_operator_may_do_everything() -> None:
    """Staff and superuser, with a usable password only where one was given; asked again it is the same user."""
    user = local_user_ensure()
    assert (user.username, user.is_staff, user.is_superuser) == ("local", True, True)
    assert not user.has_usable_password()
    assert local_user_ensure(password=PASSWORD).check_password(PASSWORD)
    assert local_user_ensure().check_password(PASSWORD)
    assert User.objects.get() == user


def run_command(*arguments: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("create_token", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_create_token_prints_only_the_token(bare_api: APIClient) -> None:
    """So that a shell can catch it; what else there is to say goes to standard error."""
    out, err = run_command("grace")
    assert status(bare_api, out.strip()) == 200
    assert out.strip() not in err
    user = User.objects.get(username="grace")
    assert not user.has_usable_password()
    assert not user.is_staff
    assert timedelta(days=89) < AuthToken.objects.get().expiry - timezone.now() <= timedelta(days=90)


def test_create_token_for_a_known_user(user: User) -> None:
    """`--days 0` never expires, and `--staff` raises the user."""
    assert "It expires in 1 day." in run_command("ada", "--days", "1")[1]
    AuthToken.objects.all().delete()
    run_command("ada", "--days", "0", "--staff")
    assert AuthToken.objects.get().expiry is None
    assert User.objects.get(username="ada").is_staff


@pytest.mark.parametrize("arguments", [("ada", "--days", "-1"), ("not a name",)])
def test_create_token_refuses_nonsense(arguments: tuple[str, ...]) -> None:
    """Nothing is made then."""
    with pytest.raises(CommandError):
        run_command(*arguments)
    assert not AuthToken.objects.exists()
    assert not User.objects.exists()


def test_create_token_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """--help says how to send the token and how long it lives."""
    from imagegen_project.auth.management.commands.create_token import Command

    command: BaseCommand = Command()
    command.print_help("manage.py", "create_token")
    text = capsys.readouterr().out
    assert "Authorization: Bearer" in text
    assert "--days" in text


@pytest.fixture
def admin_page(settings: Settings, admin_client: Client) -> Client:
    settings.ROOT_URLCONF = "tests.unit.imagegen_project.auth.urls"
    return admin_client


@pytest.mark.parametrize("page", ["/admin/accounts/localtoken/?q=user", "/admin/accounts/hubaccount/?q=user"])
def test_admin_lists_cost_the_same_for_many_rows(admin_page: Client, page: str) -> None:
    """The number of queries does not depend on the number of rows."""
    counts = []
    for first in (0, 20):
        for number in range(first, first + 20):
            user = User.objects.create_user(f"user{number}")
            token_create(user=user, expires_in=timedelta(days=1))
            HubAccount.objects.create(
                user=user, hub_id=f"id-{number}", name=user.username, last_seen_at=timezone.now()
            )
        with CaptureQueriesContext(connection) as captured:
            answer = admin_page.get(page)
        counts.append(len(captured))
        assert b"user19" in answer.content
    assert len(set(counts)) == 1


def test_admin_neither_makes_nor_rewrites_tokens(user: User, admin_page: Client) -> None:
    """No form to add or to change, and no digest on any page; deleting revokes."""
    token_create(user=user, expires_in=None)
    row, note = AuthToken.objects.get(), LocalToken.objects.get()
    pages = "/admin/accounts/localtoken"
    assert admin_page.get(f"{pages}/add/").status_code == 403
    assert b"create_token" in admin_page.get(f"{pages}/").content
    for path in (f"{pages}/", f"{pages}/{note.pk}/change/", f"{pages}/{note.pk}/delete/"):
        assert row.digest.encode() not in admin_page.get(path).content
    assert not admin_page.get(f"{pages}/{note.pk}/change/").context["adminform"].form.fields
    admin_page.post(f"{pages}/{note.pk}/delete/", {"post": "yes"})
    assert not AuthToken.objects.exists()


def test_deploy_check_warns_without_allow_lists(settings: Settings) -> None:
    """imagegen.W001, until one of the lists is set."""
    settings.HUB_ALLOWED_USERS, settings.HUB_ALLOWED_ORGS = [], []
    assert [message.id for message in hub_allow_lists()] == ["imagegen.W001"]
    settings.HUB_ALLOWED_ORGS = ["acme"]
    assert hub_allow_lists() == []


def test_openapi_describes_the_door() -> None:
    """A bearer scheme, and the ticket route with its answer."""
    generator: Any = SchemaGenerator(urlconf="tests.unit.imagegen_project.auth.urls")  # type: ignore[no-untyped-call]
    schema = generator.get_schema(public=True)
    assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    operation = schema["paths"]["/tickets"]["post"]
    assert "requestBody" not in operation
    assert operation["responses"]["201"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/TicketOut"
    }
    assert {"bearer": []} in operation["security"]
