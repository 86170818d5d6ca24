"""Digests come from registries, or not at all."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts.pin_images import FILES, REPOSITORY, Image, RegistryError, digest, main, pinned

MANIFEST = b'{"schemaVersion": 2, "manifests": []}'
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"


class Registry(BaseHTTPRequestHandler):
    """One image behind a token, as the distribution specification has it."""

    def do_GET(self) -> None:
        address = f"http://127.0.0.1:{self.server.server_address[1]}"
        if self.path.startswith("/token?"):
            assert self.path == "/token?service=here&scope=repository%3Aone%2Fimage%3Apull"
            self.reply(200, b'{"token": "for-anybody"}')
        elif self.headers.get("Authorization") != "Bearer for-anybody":
            scope = f'realm="{address}/token",service="here",scope="repository:one/image:pull"'
            self.reply(401, b"", {"WWW-Authenticate": f"Bearer {scope}"})
        elif self.path == "/v2/one/image/manifests/1.2" and "image.index" in self.headers["Accept"]:
            self.reply(200, MANIFEST, {"Docker-Content-Digest": DIGEST})
        elif self.path == "/v2/one/image/manifests/forged":
            self.reply(200, b"{}", {"Docker-Content-Digest": DIGEST})
        else:
            self.reply(404, b"")

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def registry() -> Iterator[str]:
    """A registry's host and port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def closed() -> str:
    """A port where nobody listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        port = server.server_address[1]
    return f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("postgres:18-bookworm", Image("registry-1.docker.io", "library/postgres", "18-bookworm")),
        ("prom/prometheus:v3.5.0", Image("registry-1.docker.io", "prom/prometheus", "v3.5.0")),
        ("redis", Image("registry-1.docker.io", "library/redis", "latest")),
        ("ghcr.io/one/two:3", Image("ghcr.io", "one/two", "3")),
        ("localhost:5000/one", Image("localhost:5000", "one", "latest")),
    ],
)
def test_names_lead_where_docker_goes(name: str, image: Image) -> None:
    assert Image.of(name) == image


def test_a_registry_is_asked_with_the_token_it_wants(registry: str) -> None:
    assert digest(Image.of(f"{registry}/one/image:1.2")) == DIGEST


@pytest.mark.parametrize("tag", ["unknown", "forged"])
def test_what_is_no_digest_is_refused(registry: str, tag: str) -> None:
    """No such image, or another content than the registry says."""
    with pytest.raises(RegistryError):
        digest(Image.of(f"{registry}/one/image:{tag}"))


def test_all_foreign_images_are_pinned() -> None:
    """And none of this project's own."""
    seen: list[str] = []

    def resolve(image: Image) -> str:
        seen.append(image.repository)
        return DIGEST

    for name in FILES:
        text = (REPOSITORY / name).read_text()
        once = pinned(text, resolve=resolve)
        assert pinned(once, resolve=resolve) == once
    assert sorted(set(seen)) == [
        "grafana/grafana",
        "library/postgres",
        "library/python",
        "library/redis",
        "prom/prometheus",
    ]


def test_files_get_their_digests(registry: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"ARG BASE_IMAGE={registry}/one/image:1.2\nFROM ${{BASE_IMAGE}} AS base\n"
    )
    old = "0" * 64
    compose = f"services:\n  one:\n    image: {registry}/one/image:1.2@sha256:{old}\n    user: one\n"
    (tmp_path / "docker-compose.yml").write_text(
        f"{compose}  two:\n    image: ${{WEB_IMAGE:-imagegen-web:latest}}\n"
    )
    assert main(root=tmp_path) == 0
    assert (tmp_path / "Dockerfile").read_text().splitlines()[
        0
    ] == f"ARG BASE_IMAGE={registry}/one/image:1.2@{DIGEST}"
    written = (tmp_path / "docker-compose.yml").read_text()
    assert old not in written
    assert f"    image: {registry}/one/image:1.2@{DIGEST}\n    user: one\n" in written
    assert "    image: ${WEB_IMAGE:-imagegen-web:latest}\n" in written


def test_nothing_is_pinned_where_a_registry_cannot_be_asked(
    registry: str, closed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even the images of another that can; and it is said."""
    (tmp_path / "Dockerfile").write_text(f"ARG BASE_IMAGE={registry}/one/image:1.2\n")
    (tmp_path / "docker-compose.yml").write_text(f"    image: {closed}/one/image:1.2\n")
    shutil.copytree(tmp_path, tmp_path.parent / "before")
    assert main(root=tmp_path) == 1
    for name in FILES:
        assert (tmp_path / name).read_text() == (tmp_path.parent / "before" / name).read_text()
    assert "No digest was set and no file was changed" in capsys.readouterr().out


def test_a_registry_sends_nobody_to_files(tmp_path: Path) -> None:
    """Nor to unencrypted HTTP elsewhere."""
    from scripts.pin_images import _get

    for address in (f"file://{tmp_path}/token", "http://registry.invalid/token"):
        with pytest.raises(ValueError, match="is not HTTPS"):
            _get(address, {})
