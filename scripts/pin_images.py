"""Sets the digests of the images that Dockerfile and docker-compose.yml name, as their registries have them now.

A tag can be moved to another image; a digest cannot. Digests come from registries alone: where one cannot be asked,
no file is changed.
"""

import hashlib
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.locks import REPOSITORY

FILES = ("Dockerfile", "docker-compose.yml")
# This project's own images come from variables, and so does what the Dockerfile is built on: its default is pinned.
IMAGE = re.compile(
    r"(?P<before>^ARG BASE_IMAGE=|^\s*image:\s+)(?P<image>[^\s$@]+)(?:@sha256:[0-9a-f]{64})?$", re.M
)
INDEXES_AND_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
LOOPBACK = ("localhost", "127.0.0.1")
TIMEOUT_S = 20.0


class RegistryError(Exception):
    """A registry that cannot be asked, or that answers something else than a digest."""


@dataclass(frozen=True)
class Image:
    """Where a name like `postgres:18-bookworm` leads to."""

    registry: str
    repository: str
    tag: str

    @classmethod
    def of(cls, name: str) -> "Image":
        """As Docker reads it: what has no registry is Docker Hub's, and without a folder its official one."""
        path, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
        first, _, rest = path.partition("/")
        if rest and ("." in first or ":" in first or first == "localhost"):
            return cls(first, rest, tag)
        return cls("registry-1.docker.io", path if rest else f"library/{path}", tag)


def digest(image: Image) -> str:
    """The digest of an image's index, or of its manifest. Raises RegistryError."""
    # Registries on this machine speak HTTP, as Docker also takes it.
    scheme = "http" if image.registry.partition(":")[0] in LOOPBACK else "https"
    address = f"{scheme}://{image.registry}/v2/{image.repository}/manifests/{image.tag}"
    headers = {"Accept": ", ".join(INDEXES_AND_MANIFESTS)}
    try:
        try:
            body, named = _get(address, headers)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            headers["Authorization"] = f"Bearer {_token(error.headers.get('WWW-Authenticate', ''))}"
            body, named = _get(address, headers)
    except (OSError, ValueError) as error:
        raise RegistryError(
            f"{image.registry} gave no digest of {image.repository}:{image.tag} ({error})"
        ) from error
    computed = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if named not in (None, computed):
        raise RegistryError(f"{image.registry} calls {computed} {named}")
    return computed


def _get(address: str, headers: dict[str, str]) -> tuple[bytes, str | None]:
    """The body and the digest that goes with it. Raises ValueError where a registry sends us astray."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        message = f"{address!r} is not HTTPS"
        raise ValueError(message)
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # nosec B310
        return answer.read(), answer.headers.get("Docker-Content-Digest")


def _token(challenge: str) -> str:
    """The token that anybody gets, from where a registry sends us (the distribution specification's token flow)."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = urllib.parse.urlencode({name: fields[name] for name in ("service", "scope") if name in fields})
    body, _ = _get(f"{fields.get('realm', '')}?{query}", {})
    answer = json.loads(body)
    return str(answer.get("token") or answer.get("access_token") or "")


def pinned(text: str, *, resolve: Callable[[Image], str]) -> str:
    """A file's text with the digest of each image."""
    return IMAGE.sub(
        lambda found: f"{found['before']}{found['image']}@{resolve(Image.of(found['image']))}",
        text,
    )


def main(_: Sequence[str] = (), *, root: Path = REPOSITORY) -> int:
    """Changes all files, or none."""
    known: dict[Image, str] = {}

    def resolve(image: Image) -> str:
        if image not in known:
            known[image] = digest(image)
            sys.stdout.write(f"{image.repository}:{image.tag} is {known[image]}\n")
        return known[image]

    try:
        texts = {name: pinned((root / name).read_text(encoding="utf-8"), resolve=resolve) for name in FILES}
    except RegistryError as error:
        sys.stdout.write(
            f"{error}.\nNo digest was set and no file was changed: this needs a way to the registries.\n"
        )
        return 1
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
