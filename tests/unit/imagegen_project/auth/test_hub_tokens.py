"""What a Hub token opens, and what it does not."""

import gzip
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django_redis import get_redis_connection
from pytest_django import DjangoAssertNumQueries, Settings
from rest_framework.test import APIClient

from imagegen_project.auth import hub as hub_module
from imagegen_project.auth.errors import HubUnavailableError
from imagegen_project.auth.hub import HubIdentity
from imagegen_project.auth.identity import hub_identity
from imagegen_project.auth.models import HubAccount
from imagegen_project.auth.services import user_for_hub_identity
from tests.support.hub import HubDouble, HubReply, Outage, whoami
from tests.support.service import wait_for

TOKEN = "hf_tokenOfNobody"  # noqa: S105 - nobody's
INVALID_CHALLENGE = 'Bearer realm="imagegen", error="invalid_token"'

pytestmark = pytest.mark.django_db


def ask(bare_api: APIClient, token: str = TOKEN) -> Any:
    return bare_api.get("/whoami", headers={"Authorization": f"Bearer {token}"})


def assert_refused(answer: Any, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer["WWW-Authenticate"] == INVALID_CHALLENGE


def assert_unknown(answer: Any) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "hub_unavailable")
    assert int(answer["Retry-After"]) >= 1
    assert "WWW-Authenticate" not in answer


@pytest.mark.parametrize(
    "reply",
    [
        whoami(role="read"),
        whoami(role="write"),
        whoami(role="fineGrained", scoped=("repo.content.read",)),
        whoami(role="fineGrained", scoped=("user.billing.read", "repo.write")),
        whoami(role="fineGrained", global_permissions=("repo.content.read",)),
        whoami(role="fineGrained", can_read_gated=True),
    ],
)
def test_a_token_that_may_read_is_its_account(
    hub: HubDouble, bare_api: APIClient, reply: dict[str, Any]
) -> None:
    """Roles read and write, and fine-grained tokens with a read scope, are users `<name>@huggingface`."""
    hub.tokens[TOKEN] = reply
    answer = ask(bare_api)
    assert (answer.status_code, answer.json()) == (200, {"username": "alice@huggingface", "kind": "hub"})
    user = User.objects.get()
    assert not user.has_usable_password()
    assert not user.is_staff
    assert user.hub_account.hub_id == reply["id"]


@pytest.mark.parametrize(
    "reply",
    [
        whoami(role="fineGrained"),
        whoami(role="fineGrained", scoped=("user.billing.read", "repo.access.read")),
        whoami(role="fineGrained", global_permissions=("discussion.write",)),
        whoami(role="god"),
        whoami() | {"auth": {"type": "oauth"}},
        whoami() | {"auth": None},
    ],
)
def test_a_token_that_may_not_read_is_refused(
    hub: HubDouble, bare_api: APIClient, reply: dict[str, Any]
) -> None:
    """A valid token without a read scope is a 401 of its own code, and makes no user."""
    hub.tokens[TOKEN] = reply
    assert_refused(ask(bare_api), "token_without_read_scope")
    assert not User.objects.exists()


def test_a_revoked_token_is_refused(hub: HubDouble, bare_api: APIClient, settings: Settings) -> None:
    """What the Hub no longer knows is a 401 once the cached answer is no longer fresh, grace or not."""
    hub.tokens[TOKEN] = whoami()
    assert ask(bare_api).status_code == 200
    del hub.tokens[TOKEN]
    assert ask(bare_api).status_code == 200
    settings.HUB_CACHE_S = 0
    assert_refused(ask(bare_api), "invalid_token")


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer hf_a b",
        "Bearer hf_a\tb",
        "Bearer hf_",
        "Bearer hf_naïve",
        "Bearer sk-abcdef",
        "bearer x",
    ],
)
def test_a_malformed_header_is_refused_without_asking(
    hub: HubDouble, bare_api: APIClient, header: str
) -> None:
    """What cannot be a token of this service is a 401, and the Hub is not troubled with it."""
    answer = bare_api.get("/whoami", headers={"Authorization": header.encode().decode("latin-1")})
    assert_refused(answer, "invalid_token")
    assert not hub.requests


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YTpi"}])
def test_without_a_bearer_token_one_is_asked_for(bare_api: APIClient, headers: dict[str, str]) -> None:
    """No credential, or another scheme's, is a 401 whose challenge names Bearer."""
    answer = bare_api.get("/whoami", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert answer["WWW-Authenticate"].startswith('Bearer realm="imagegen"')


@pytest.mark.parametrize("outage", ["429", "500", "hang", "garbage", "gone"])
def test_an_unknown_token_is_never_called_invalid(
    hub: HubDouble, bare_api: APIClient, outage: Outage
) -> None:
    """While the Hub does not answer, a token is 503 with Retry-After, soon, and never 401."""
    hub.tokens[TOKEN] = whoami()
    hub.fail(outage)
    started = time.monotonic()
    assert_unknown(ask(bare_api))
    assert time.monotonic() - started < 2


def test_an_answer_without_an_end_is_left(hub: HubDouble, bare_api: APIClient, settings: Settings) -> None:
    """The thread that reads it ends, however much comes."""
    settings.HUB_TIMEOUT_S = 5
    endless = HubReply(200, repeat(b" " * 65536), {"Content-Length": str(10**12)})
    hub.route_first("GET", r"/api/whoami-v2", lambda _: endless)
    assert_unknown(ask(bare_api))
    wait_for(lambda: not any(thread.name == "hub-whoami" for thread in threading.enumerate()), "its end")


def test_a_packed_answer_is_bounded_by_what_it_may_become(
    hub: HubDouble, bare_api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not asked for either."""
    packed = gzip.compress(json.dumps(whoami()).encode() + b" " * 1_000_000)
    hub.route_first("GET", r"/api/whoami-v2", lambda _: HubReply(200, packed, {"Content-Encoding": "gzip"}))
    monkeypatch.setattr(hub_module, "MAX_REPLY_BYTES", 100_000)
    assert_unknown(ask(bare_api))
    assert hub.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("outage", ["429", "500", "hang", "garbage", "gone"])
def test_a_token_seen_valid_keeps_working_for_the_grace_period(
    hub: HubDouble, bare_api: APIClient, settings: Settings, outage: Outage
) -> None:
    """Grace ends HUB_GRACE_S after the Hub last confirmed the token."""
    hub.tokens[TOKEN] = whoami()
    assert ask(bare_api).status_code == 200
    hub.fail(outage)
    settings.HUB_CACHE_S = 0
    assert ask(bare_api).status_code == 200
    # Redis forgets the answer then; here nobody waits for it.
    cache.clear()
    assert_unknown(ask(bare_api))


def test_the_grace_period_is_how_long_an_answer_is_remembered(hub: HubDouble, settings: Settings) -> None:
    """The cached answer lives for HUB_GRACE_S, in a key that does not hold the token."""
    settings.HUB_GRACE_S, settings.HUB_CACHE_S = 500, 60
    hub.tokens[TOKEN] = whoami()
    hub_identity(token=TOKEN)
    redis = get_redis_connection("default")
    (key,) = redis.keys("*hub:token*")
    assert 495 <= redis.ttl(key) <= 500
    assert TOKEN.encode() not in key


def test_the_hub_recovers(hub: HubDouble, bare_api: APIClient) -> None:
    """After a short outage the next question is asked again."""
    hub.tokens[TOKEN] = whoami()
    hub.mode = "500"
    assert_unknown(ask(bare_api))
    hub.mode = "ok"
    assert ask(bare_api).status_code == 200


def test_a_rate_limit_is_obeyed(hub: HubDouble, bare_api: APIClient) -> None:
    """Until the Hub's Retry-After has passed nothing is asked, and clients are told to wait as long."""
    hub.mode, hub.retry_after = "429", 20
    hub.tokens[TOKEN] = whoami()
    assert ask(bare_api)["Retry-After"] == "20"
    assert 19 <= int(ask(bare_api)["Retry-After"]) <= 20
    assert len(hub.requests) == 1


def test_one_account_s_rate_limit_is_nobody_else_s(hub: HubDouble, bare_api: APIClient) -> None:
    """The Hub limits each account by itself; whoever provoked it waits alone."""
    hub.mode, hub.retry_after = "429", 20
    assert ask(bare_api).status_code == 503
    hub.mode = "ok"
    hub.tokens[TOKEN + "2"] = whoami("bob", hub_id="id-2")
    assert ask(bare_api, TOKEN + "2").status_code == 200
    assert ask(bare_api).status_code == 503


def test_a_cached_answer_makes_no_second_request(
    hub: HubDouble, bare_api: APIClient, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """Fresh answers, good and bad, are not asked for again; a known account costs one query."""
    hub.tokens[TOKEN] = whoami()
    assert ask(bare_api).status_code == 200
    with django_assert_num_queries(1):
        assert ask(bare_api).status_code == 200
    for _ in range(2):
        assert_refused(ask(bare_api, "hf_unknownunknown"), "invalid_token")
    assert [request.path for request in hub.requests] == ["/api/whoami-v2"] * 2


def test_the_same_question_at_the_same_time_is_asked_once(hub: HubDouble) -> None:
    """Ten requests with a new token cost one question: whoami is rate-limited."""
    hub.tokens[TOKEN] = whoami()
    hub.mode = "hang"

    def ask_once(_: int) -> None:
        with pytest.raises(HubUnavailableError):
            hub_identity(token=TOKEN)

    with ThreadPoolExecutor(10) as pool:
        assert len(list(pool.map(ask_once, range(10)))) == 10
    assert len(hub.requests) == 1


def test_without_redis_the_hub_is_asked_each_time(
    hub: HubDouble, bare_api: APIClient, settings: Settings
) -> None:
    """A lost Redis costs speed, not access."""
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0"}}
    hub.tokens[TOKEN] = whoami()
    assert [ask(bare_api).status_code for _ in range(2)] == [200, 200]
    assert_refused(ask(bare_api, "hf_unknownunknown"), "invalid_token")
    assert len(hub.requests) == 3


@pytest.mark.parametrize(
    ("users", "orgs", "admitted"),
    [
        ([], [], True),
        (["Alice"], [], True),
        ([], ["ACME"], True),
        (["bob"], ["acme"], True),
        (["bob"], [], False),
        ([], ["umbrella"], False),
    ],
)
def test_allow_lists(
    hub: HubDouble,
    bare_api: APIClient,
    settings: Settings,
    users: list[str],
    orgs: list[str],
    *,
    admitted: bool,
) -> None:
    """With any list set, an account on neither is 403 and leaves no user behind; names ignore case."""
    settings.HUB_ALLOWED_USERS, settings.HUB_ALLOWED_ORGS = users, orgs
    hub.tokens[TOKEN] = whoami(orgs=("acme", "other"))
    answer = ask(bare_api)
    if admitted:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["code"]) == (403, "hub_user_not_allowed")
        assert not User.objects.exists()


def test_a_renamed_account_stays_the_same_user(hub: HubDouble, bare_api: APIClient) -> None:
    """Identity is the Hub's id: a new name renames the user."""
    hub.tokens[TOKEN] = whoami("alice")
    ask(bare_api)
    user = User.objects.get()
    hub.tokens[TOKEN] = whoami("alicia")
    cache.clear()
    assert ask(bare_api).json()["username"] == "alicia@huggingface"
    user.refresh_from_db()
    assert (user.username, user.hub_account.name) == ("alicia@huggingface", "alicia")


def test_a_name_that_was_taken_over_is_another_user() -> None:
    """Whoever takes a name that another account gave up gets a user of their own, and both can come back."""
    first = user_for_hub_identity(identity=HubIdentity("id-1", "alice", ()))
    second = user_for_hub_identity(identity=HubIdentity("id-2", "alice", ()))
    assert first.pk != second.pk
    assert second.username == "alice+id-2@huggingface"
    assert user_for_hub_identity(identity=HubIdentity("id-1", "bob", ())).username == "bob@huggingface"
    assert user_for_hub_identity(identity=HubIdentity("id-2", "alice", ())).pk == second.pk
    assert user_for_hub_identity(identity=HubIdentity("id-2", "bob", ())).username == "bob+id-2@huggingface"


def test_a_local_user_is_not_taken_over() -> None:
    """A local user who happens to be called like a Hub user keeps the name."""
    local = User.objects.create_superuser("alice@huggingface")
    user = user_for_hub_identity(identity=HubIdentity("id-1", "alice", ()))
    assert user.pk != local.pk
    assert not user.is_superuser


def test_a_deactivated_user_is_refused(hub: HubDouble, bare_api: APIClient) -> None:
    """Deactivating the user in the admin shuts the account out."""
    hub.tokens[TOKEN] = whoami()
    ask(bare_api)
    User.objects.update(is_active=False)
    assert_refused(ask(bare_api), "user_inactive")


def test_last_seen_is_written_at_most_once_a_minute(
    hub: HubDouble, bare_api: APIClient, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """An old time of the last visit is renewed, a recent one left alone."""
    hub.tokens[TOKEN] = whoami()
    ask(bare_api)
    seen = HubAccount.objects.get().last_seen_at
    HubAccount.objects.update(last_seen_at=seen.replace(year=2020))
    with django_assert_num_queries(2):
        ask(bare_api)
    assert HubAccount.objects.get().last_seen_at >= seen


def test_offline_mode_of_the_library_does_not_matter(
    hub: HubDouble, bare_api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_HUB_OFFLINE keeps weights local; tokens are still asked about."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.tokens[TOKEN] = whoami()
    assert ask(bare_api).status_code == 200


def test_only_the_question_is_asked(hub: HubDouble, bare_api: APIClient) -> None:
    """The client sends no other request and keeps no cookie from one user's answer for the next."""
    hub.tokens |= {TOKEN: whoami(), TOKEN + "2": whoami("bob", hub_id="id-2")}
    assert [ask(bare_api, token).status_code for token in (TOKEN, TOKEN + "2")] == [200, 200]
    assert [request.path for request in hub.requests] == ["/api/whoami-v2"] * 2
    assert [request.token for request in hub.requests] == [TOKEN, TOKEN + "2"]
    assert all("cookie" not in request.headers for request in hub.requests)
