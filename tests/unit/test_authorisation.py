"""Who may call what: every route of the URLconf, as nobody, its object's owner, another user and staff.

A new route fails here until it has a row.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal
from uuid import uuid4

import pytest
import redis
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.test import Client
from django.urls import get_resolver
from django.urls.resolvers import URLPattern, URLResolver
from knox.models import AuthToken

from generation.attempts import generation_claim
from generation.choices import CommandKind
from generation.models import Generation, Share, Worker, WorkerCommand
from imagegen_project.auth.services import token_create, token_issue
from imagegen_project.auth.tickets import link_create
from imagegen_project.common.queues import DOWNLOADS_QUEUE, entries_push, entries_waiting
from imagegen_project.urls import TYPED
from loras.choices import LoraState
from loras.models import Lora
from models_registry.models import Checkpoint
from tests.support.endings import succeed
from tests.support.factories import create_generation, make_worker

pytestmark = pytest.mark.django_db

Access = Literal["everyone", "users", "owner", "staff", "nobody", "not offered", "session", "own"]
Identity = Literal["anonymous", "owner", "other", "staff"]
IDENTITIES: tuple[Identity, ...] = ("anonymous", "owner", "other", "staff")

# What each may expect: a number, or None for "let through", whatever the request then lacks.
EXPECTED: Mapping[Access, tuple[int | None, int | None, int | None, int | None]] = {
    "everyone": (None, None, None, None),
    "users": (401, None, None, None),
    "owner": (401, None, 404, None),
    "staff": (401, 403, 403, None),
    "session": (401, 403, 403, 403),
    "own": (401, None, 404, 404),
    "nobody": (404, 404, 404, 404),
    "not offered": (401, 501, 501, 501),
}

NATIVE: dict[str, Access] = {
    "GET ": "users",
    "POST generate/txt2img": "users",
    "POST txt2img": "users",
    "POST generate/img2img": "users",
    "POST img2img": "users",
    "GET capabilities": "users",
    "GET generations": "users",
    "POST generations": "users",
    "GET generations/{generation_id}": "owner",
    "DELETE generations/{generation_id}": "owner",
    "PATCH generations/{generation_id}": "owner",
    "POST generations/delete": "users",
    "POST generations/{generation_id}/cancel": "owner",
    "POST generations/{generation_id}/retry": "owner",
    "POST generations/{generation_id}/replay": "owner",
    "GET generations/{generation_id}/receipt": "owner",
    "GET generations/{generation_id}/result": "owner",
    "GET generations/{generation_id}/images/{index}": "owner",
    "GET generations/{generation_id}/input": "owner",
    "GET generations/{generation_id}/shares": "owner",
    "POST generations/{generation_id}/shares": "owner",
    "DELETE generations/{generation_id}/shares": "owner",
    "DELETE generations/{generation_id}/shares/{share_id}": "owner",
    "GET generations/{generation_id}/mask": "owner",
    "GET generations/{generation_id}/inputs/{index}": "owner",
    "GET models": "everyone",
    "GET models/{name}": "everyone",
    "POST models/load": "users",
    "POST models/unload": "users",
    "GET models/orders/{order_id}": "owner",
    "GET loras": "users",
    "GET loras/list": "users",
    "GET loras/{lora_id}": "owner",
    "DELETE loras/{lora_id}": "owner",
    "POST loras/load": "users",
    "POST loras/unload": "users",
    "POST loras/upload": "users",
    "POST webhook-secret": "users",
    "POST tickets": "users",
    "GET tokens": "users",
    "POST tokens": "session",
    "DELETE tokens/{token_id}": "own",
    "GET me": "users",
    "POST png-info": "users",
    "GET usage": "users",
}
A1111 = {
    "GET": (
        *("sd-models", "samplers", "schedulers", "upscalers", "latent-upscale-modes", "sd-vae", "scripts"),
        *("loras", "progress", "options", "memory", "script-info", "cmd-flags", "embeddings", "sd-modules"),
        *("hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles", "extensions"),
    ),
    "POST": (
        *("txt2img", "img2img", "interrupt", "skip", "options", "png-info", "extra-single-image"),
        *("extra-batch-images", "refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings"),
        *("unload-checkpoint", "reload-checkpoint"),
    ),
}
OTHERS: dict[str, Access] = {
    # Pages: whoever is not signed in is sent to where one signs in.
    "GET ": "everyone",
    "GET gallery/": "everyone",
    "GET gallery/{generation_id}/": "everyone",
    "GET account/": "everyone",
    "GET health/ready": "everyone",
    "GET metrics": "staff",
    "GET api/schema": "everyone",
    "GET api/docs": "everyone",
    "GET api/asyncapi": "everyone",
    "GET accounts/login/": "everyone",
    "POST accounts/login/": "everyone",
    **{f"GET {typed}": "everyone" for typed in TYPED},
    "GET sign-in/": "everyone",
    "POST sign-in/": "everyone",
    "GET sign-in/once/{nonce}/": "everyone",
    "POST sign-in/once/{nonce}/": "everyone",
    "POST sign-out/": "everyone",
    "GET s/{token}/": "everyone",
    "GET s/{token}/{index}": "everyone",
    "POST v1/images/generations": "users",
    "POST v1/images/edits": "users",
    "POST v1/images/variations": "users",
    "GET v1/images/results/{generation_id}": "owner",
    "GET v1/images/": "nobody",
    "POST hf/{name}": "users",
    "GET hf/{name}/health": "everyone",
    "GET hf/{name}/info": "everyone",
    "GET hf/results/{generation_id}": "owner",
    "GET hf/": "nobody",
    "POST sdapi/v1/interrogate": "not offered",
    "GET sdapi/v1/results/{generation_id}": "owner",
    "GET sdapi/v1/": "nobody",
    **{f"{method} sdapi/v1/{name}": "users" for method, names in A1111.items() for name in names},
}
MATRIX: dict[str, Access] = {
    f"{key.partition(' ')[0]} {mount}{key.partition(' ')[2]}": access
    for mount in ("api/v1/", "v1/")
    for key, access in NATIVE.items()
} | OTHERS

_PARAMETER = re.compile(r"\(\?P<(\w+)>(?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")
_LOOK_AHEAD = re.compile(r"\(\?!(?:[^()]|\([^()]*\))*\)")
METHODS = ("get", "post", "put", "patch", "delete")
# Redirects and login forms answer more methods than they are made for.
GENERIC = {"index": ("get",), "login": ("get", "post"), "typed": ("get",)}


def routes(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    """Every route as a readable template."""
    for pattern in patterns:
        text = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, text)
        else:
            template = _PARAMETER.sub(r"{\1}", _LOOK_AHEAD.sub("", text))
            template = template.replace("(?:/|$)", "/")
            yield template.replace("^", "").replace("/?", "").replace("$", ""), pattern


def methods_of(pattern: URLPattern) -> tuple[str, ...]:
    """The methods that a route is made for."""
    if pattern.name in GENERIC:
        return GENERIC[pattern.name]
    view: Any = pattern.callback
    if actions := getattr(view, "actions", None):
        return tuple(method for method in METHODS if method in actions)  # a first call adds "head"
    cls = getattr(view, "view_class", None) or getattr(view, "cls", None)
    return tuple(method for method in METHODS if hasattr(cls, method)) or ("get",)


def endpoints() -> set[str]:
    """`METHOD template` of everything but the admin pages."""
    return {
        f"{method.upper()} {template}"
        for template, pattern in routes(get_resolver().url_patterns)
        if not template.startswith("admin/")
        for method in methods_of(pattern)
    }


def test_the_matrix_has_every_endpoint() -> None:
    """And no other."""
    assert set(MATRIX) == endpoints()


class World:
    """Two users, a member of staff, and one of everything that belongs to the first."""

    def __init__(self) -> None:
        self.owner = User.objects.create_user("ada")
        users = {
            "owner": self.owner,
            "other": User.objects.create_user("bob"),
            "staff": User.objects.create_user("eve", is_staff=True),
        }
        self.headers: dict[str, dict[str, str]] = {"anonymous": {}}
        for name, user in users.items():
            token = token_create(user=user, expires_in=None)
            self.headers[name] = {"Authorization": f"Bearer {token}"}
        self.worker: Worker = make_worker("w1")

    def address(self, template: str) -> str:
        """A template with the ids of what belongs to the owner, and a nonce that nobody has used."""
        values = {
            "generation_id": lambda: self.generation.id,
            "share_id": lambda: self.share.id,
            "token": lambda: self.share.token,
            "order_id": lambda: self.order.order_id,
            "lora_id": lambda: self.lora.id,
            "index": lambda: 0,
            "name": lambda: "builtin",
            "token_id": lambda: self.token.id,
            "nonce": lambda: link_create(user=self.owner),
        }
        return "/" + re.sub(r"\{(\w+)\}", lambda found: str(values[found[1]]()), template)

    @cached_property
    def generation(self) -> Generation:
        """One that has ended, with a picture."""
        create_generation(owner=self.owner)
        claimed = generation_claim(worker=self.worker)
        assert claimed is not None
        assert succeed(claimed)
        return claimed

    @cached_property
    def share(self) -> Share:
        """A public page of that one."""
        return Share.objects.create(generation=self.generation, show_prompt=True)

    @cached_property
    def token(self) -> AuthToken:
        """One of the owner's own."""
        return token_issue(user=self.owner, expires_in=None, name="")[0]

    @cached_property
    def order(self) -> WorkerCommand:
        """A load that its worker has not begun."""
        builtin = Checkpoint.objects.get(id="builtin")
        return WorkerCommand.objects.create(
            worker=self.worker, kind=CommandKind.LOAD, checkpoint=builtin, requested_by=self.owner
        )

    @cached_property
    def lora(self) -> Lora:
        """A private adapter."""
        return Lora.objects.create(
            name=f"style-{uuid4().hex[:8]}",
            owner=self.owner,
            family="sd1",
            rank=4,
            alpha=4.0,
            sha256=uuid4().hex * 2,
            state=LoraState.PRESENT,
        )


@pytest.fixture
def world() -> World:
    return World()


@contextmanager
def put_back() -> Iterator[None]:
    """Behind it, what a call deleted is there again for the next."""
    before = transaction.savepoint()
    try:
        yield
    finally:
        transaction.savepoint_rollback(before)


def call(world: World, endpoint: str, identity: Identity) -> Any:
    """An empty request: whoever may call gets an answer about what it lacks."""
    method, template = endpoint.split(" ", 1)
    body = {} if method == "GET" else {"data": "{}", "content_type": "application/json"}
    address, headers = world.address(template), world.headers[identity]
    with put_back():
        return getattr(Client(), method.lower())(address, headers=headers, **body)


@pytest.mark.parametrize("endpoint", sorted(MATRIX))
def test_who_may_call(world: World, endpoint: str) -> None:
    """Somebody else's things are not found, whatever is asked of them."""
    for identity, expected in zip(IDENTITIES, EXPECTED[MATRIX[endpoint]], strict=True):
        response = call(world, endpoint, identity)
        if expected is None:
            allowed = response.status_code not in (401, 403) and response.status_code < 500
            # What the owner's object or the empty request has none of (an input picture) is missing for all.
            missing = response.status_code == 404 and not endpoint.endswith(
                ("/input", "/mask", "/inputs/{index}", "1/img2img")
            )
            assert allowed, (identity, response.content)
            assert not missing, (identity, response.content)
        else:
            assert response.status_code == expected, (identity, response.content)
        if response.status_code == 401:
            assert response["WWW-Authenticate"]


ADMIN = sorted(
    re.sub(r"<\w+:\w+>", "1", template)
    for template, _ in routes(get_resolver().url_patterns)
    if template.startswith("admin/")
    and not re.match(r"admin/(log(in|out)/$|jsi18n/$|\(\?P<app_label>)", template)
)


@pytest.mark.parametrize("identity", ["anonymous", "owner"])
def test_admin_pages_are_for_staff(world: World, identity: Identity) -> None:
    """Everyone else is sent to the login page, or refused; a token opens none."""
    assert len(ADMIN) > 30
    client = Client()
    if identity == "owner":
        client.force_login(world.owner)
    for path in ADMIN:
        for response in (
            client.get(f"/{path}"),
            client.post(f"/{path}", {}),
            Client().get(f"/{path}", headers=world.headers["staff"]),
        ):
            to_login = response.status_code == 302 and response["Location"].startswith("/admin/login/")
            assert to_login or response.status_code in (401, 403, 405), (path, response.status_code)


def test_staff_touch_rq_s_queues_with_permission_only(world: World, redis_client: "redis.Redis[Any]") -> None:
    """Not even to look: entries carry ids of other people's work."""
    entries_push(DOWNLOADS_QUEUE, "models_registry.downloads.download_next")
    staff = User.objects.get(username="eve")
    client = Client()
    client.force_login(staff)
    paths = [f"/{path}" for path in ADMIN if path.startswith("admin/django_rq/")]
    assert len(paths) > 20
    for path in paths:
        for response in (client.get(path), client.post(path, {"post": "yes"})):
            assert response.status_code in (403, 404), (path, response.status_code)
    assert entries_waiting(DOWNLOADS_QUEUE) == 1
    index = sorted(settings.RQ_QUEUES).index(DOWNLOADS_QUEUE)
    staff.user_permissions.add(Permission.objects.get(codename="admin", content_type__app_label="django_rq"))
    assert client.get("/admin/django_rq/dashboard/").status_code == 200
    client.post(f"/admin/django_rq/dashboard/queues/{index}/empty/", {"post": "yes"})
    assert entries_waiting(DOWNLOADS_QUEUE) == 0
