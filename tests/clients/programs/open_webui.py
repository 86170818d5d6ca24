"""Open WebUI's whole server, set up as by its administrator: both engines, edits, its own store of files."""

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checks import TOKEN, URL, is_png, picture, run

READY_S = 600.0
# Nothing but pictures is tried here: what else it asks for at its start is off.
WITHOUT = {
    "OFFLINE_MODE": "true",
    "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
    "RAG_EMBEDDING_ENGINE": "openai",
    "ENABLE_OLLAMA_API": "false",
    "ENABLE_OPENAI_API": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "WEBUI_SECRET_KEY": "of this run alone",
}
PICTURES = {
    "ENABLE_IMAGE_GENERATION": True,
    "IMAGE_GENERATION_ENGINE": "openai",
    "IMAGE_GENERATION_MODEL": "gpt-image-1",
    "IMAGE_SIZE": "512x512",
    "IMAGE_STEPS": 4,
    "IMAGES_OPENAI_API_BASE_URL": f"{URL}/v1",
    "IMAGES_OPENAI_API_KEY": TOKEN,
    "IMAGES_OPENAI_API_PARAMS": {"quality": "low"},
    "AUTOMATIC1111_BASE_URL": URL,
    "AUTOMATIC1111_API_AUTH": f"me:{TOKEN}",
    "ENABLE_IMAGE_EDIT": True,
    "IMAGE_EDIT_ENGINE": "openai",
    "IMAGE_EDIT_MODEL": "gpt-image-1",
    "IMAGES_EDIT_OPENAI_API_BASE_URL": f"{URL}/v1",
    "IMAGES_EDIT_OPENAI_API_KEY": TOKEN,
}


class Server:
    """Open WebUI, and who uses it."""

    url = ""
    token = ""

    def ask(self, path: str, body: Any = None) -> bytes:
        """What it answers to a GET, or to a POST of a body. Raises AssertionError for a refusal, with its words."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read()[:300]!r}") from error

    def set(self, **changes: Any) -> None:
        """Its settings for pictures, by the form of its administrator's page."""
        present = json.loads(self.ask("/api/v1/images/config"))
        self.ask("/api/v1/images/config/update", present | PICTURES | changes)

    def draw(self, path: str, body: Any) -> list[bytes]:
        """The pictures that it drew, out of its store of files."""
        return [self.ask(image["url"]) for image in json.loads(self.ask(f"/api/v1/images/{path}", body))]


server = Server()


@contextlib.contextmanager
def running() -> Iterator[None]:
    """The server, in a folder that goes with it, with its first user signed up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="open-webui-") as folder:
        command = [str(Path(sys.executable).with_name("open-webui")), "serve", "--host", "127.0.0.1"]
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder,
            env={**os.environ, **WITHOUT, "DATA_DIR": folder},
            stdout=sys.stderr,
        )
        server.url = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + READY_S
            while True:
                with contextlib.suppress(OSError, AssertionError):
                    server.ask("/health")
                    break
                assert process.poll() is None, "it ended"
                assert time.monotonic() < deadline, "it did not start"
                time.sleep(0.5)
            person = {"name": "me", "email": "me@example.com", "password": "of this run alone"}
            server.token = json.loads(server.ask("/api/v1/auths/signup", person))["token"]
            yield
        finally:
            process.terminate()
            process.wait(60)


def engine_openai() -> None:
    for model in ("gpt-image-1", "dall-e-3", "builtin"):
        server.set(IMAGE_GENERATION_MODEL=model)
        drawn = server.draw("generations", {"prompt": "a red circle", "n": 1})
        assert [is_png(data) for data in drawn] == [True]


def engine_automatic1111() -> None:
    server.set(IMAGE_GENERATION_ENGINE="automatic1111", IMAGE_GENERATION_MODEL="builtin")
    assert "builtin" in [model["id"] for model in json.loads(server.ask("/api/v1/images/models"))]
    verify = {"engine": "automatic1111", "url": URL, "key": f"me:{TOKEN}"}
    server.ask("/api/v1/images/verify", verify)
    drawn = server.draw("generations", {"prompt": "a red circle", "n": 2, "negative_prompt": "blue"})
    assert [is_png(data) for data in drawn] == [True, True]


def edits() -> None:
    server.set()
    url = "data:image/png;base64," + base64.b64encode(picture().read()).decode()
    for image in (url, [url]):
        drawn = server.draw("edit", {"image": image, "prompt": "a star"})
        assert [is_png(data) for data in drawn] == [True]


def an_edit_of_a_picture_that_it_drew() -> None:
    server.set()
    drawn = json.loads(server.ask("/api/v1/images/generations", {"prompt": "a red circle"}))
    edited = server.draw("edit", {"image": drawn[0]["url"], "prompt": "a blue star"})
    assert [is_png(data) for data in edited] == [True]


with running():
    run(engine_openai, engine_automatic1111, edits, an_edit_of_a_picture_that_it_drew)
