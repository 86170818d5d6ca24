"""Which sites' pages may call the API, and what browsers are told of it."""

from typing import Any

import httpx2
import pytest

from imagegen_project import env
from imagegen_project.server.cors import shared_with_sites

SITE, OTHER = "https://app.example.org", "https://other.example.org"
PATHS = ("/api/v1/generations", "/v1/images/generations", "/hf/builtin", "/sdapi/v1/txt2img")
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
}


def gate() -> Any:
    """That of the service, whose module looks through all that is in memory: by no process that only collects."""
    from imagegen_project import asgi

    return asgi.gate


def client(*origins: str) -> httpx2.AsyncClient:
    """A client of the gate with Django behind it, shared with these sites."""
    application: Any = shared_with_sites(gate(), origins=origins)
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(application), base_url="http://localhost", timeout=20
    )


@pytest.mark.parametrize("path", PATHS)
async def test_a_browsers_question_needs_no_token(path: str) -> None:
    """It is answered for a site that was named; never with cookies."""
    async with client(SITE) as http:
        answer = await http.options(path, headers=PREFLIGHT | {"Origin": SITE})
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == SITE
    assert answer.headers["Access-Control-Allow-Headers"] == PREFLIGHT["Access-Control-Request-Headers"]
    assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("path", PATHS)
async def test_another_site_may_read_nothing(path: str) -> None:
    """Neither the answer to the question nor any other."""
    async with client(SITE) as http:
        for answer in (
            await http.options(path, headers=PREFLIGHT | {"Origin": OTHER}),
            await http.post(path, headers={"Origin": OTHER}),
        ):
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_refusal_can_be_read_too(path: str) -> None:
    """Django's, and the gate's own; with the headers that say whose it is."""
    async with client(SITE) as http:
        without_token = await http.post(path, headers={"Origin": SITE})
        too_large = await http.post(path, headers={"Origin": SITE, "Content-Length": "99999999999"})
    assert (without_token.status_code, too_large.status_code) == (401, 413)
    for answer in (without_token, too_large):
        assert answer.headers["Access-Control-Allow-Origin"] == SITE
        assert "X-Job-Id" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("path", ["/health", "/accounts/login/", "/apiary"])
async def test_pages_are_shared_with_nobody(path: str) -> None:
    """Whoever is named."""
    async with client(SITE, "*") as http:
        answer = await http.get(path, headers={"Origin": SITE})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_all_sites_can_be_named_at_once() -> None:
    """With a star."""
    async with client("*") as http:
        answer = await http.post(PATHS[0], headers={"Origin": OTHER})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_by_default_nothing_is_shared() -> None:
    """As if there were no such thing."""
    assert shared_with_sites(gate(), origins=()) is gate()
    assert env.CORS_ALLOWED_ORIGINS == []


@pytest.mark.parametrize(
    "origin", ["app.example.org", "https://app.example.org/", "https://*.org", "null", ""]
)
def test_what_is_no_origin_stops_the_start(origin: str) -> None:
    """With its name and an example."""
    with pytest.raises(ValueError, match=r"CORS_ALLOWED_ORIGINS holds origins such as https://app"):
        env._origin(origin)
