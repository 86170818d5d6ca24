"""Open WebUI's own router of images (`open_webui/routers/images.py`), unchanged, with its two engines and its edits.

The package is installed without its 109 requirements (torch among them): what the router imports of them beyond HTTP
and pictures is put in its place here, and so are its database (the settings) and its store of files.
"""

import asyncio
import base64
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any
from unittest.mock import MagicMock

from checks import TOKEN, URL, is_png, picture, run

REAL = {"open_webui.routers", "open_webui.routers.images", "open_webui.constants"}


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Every other module of Open WebUI, as one that has every name."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.startswith("open_webui.") and name not in REAL:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = MagicMock(name=spec.name)
        module.__spec__, module.__path__, module.__name__ = spec, [], spec.name
        return module

    def exec_module(self, module: Any) -> None:
        """Nothing."""


# The package itself imports its command line, which needs more: only where it lies is of interest.
package = types.ModuleType("open_webui")
package.__path__ = list(importlib.util.find_spec("open_webui").submodule_search_locations)
sys.modules["open_webui"] = package
sys.meta_path.insert(0, Absent())
import aiohttp  # noqa: E402

config: Any = importlib.import_module("open_webui.config")
config.CACHE_DIR = importlib.import_module("pathlib").Path("cache")
config.IMAGE_AUTO_SIZE_MODELS_REGEX_PATTERN = "^gpt-image"
config.IMAGE_URL_RESPONSE_MODELS_REGEX_PATTERN = "^gpt-image"
env: Any = importlib.import_module("open_webui.env")
env.AIOHTTP_CLIENT_SESSION_SSL, env.ENABLE_FORWARD_USER_INFO_HEADERS = True, False
codec: Any = importlib.import_module("open_webui.utils.json_codec")
codec.JSONCodec = importlib.import_module("json")
auth: Any = importlib.import_module("open_webui.utils.auth")
auth.get_admin_user, auth.get_verified_user = (lambda: None), (lambda: None)

images: Any = importlib.import_module("open_webui.routers.images")
uploaded: list[bytes] = []
settings = {
    "ENABLE_IMAGE_GENERATION": True,
    "IMAGE_GENERATION_ENGINE": "openai",
    "IMAGE_GENERATION_MODEL": "gpt-image-1",
    "IMAGE_SIZE": "512x512",
    "IMAGE_STEPS": 4,
    "IMAGES_OPENAI_API_BASE_URL": f"{URL}/v1",
    "IMAGES_OPENAI_API_KEY": TOKEN,
    "IMAGES_OPENAI_API_VERSION": "",
    "IMAGES_OPENAI_API_PARAMS": {"quality": "low"},
    "AUTOMATIC1111_BASE_URL": URL,
    "AUTOMATIC1111_API_AUTH": f"me:{TOKEN}",
    "AUTOMATIC1111_PARAMS": None,
    "IMAGE_EDIT_ENGINE": "openai",
    "IMAGE_EDIT_MODEL": "gpt-image-1",
    "IMAGE_EDIT_SIZE": "",
    "IMAGES_EDIT_OPENAI_API_BASE_URL": f"{URL}/v1",
    "IMAGES_EDIT_OPENAI_API_KEY": TOKEN,
    "IMAGES_EDIT_OPENAI_API_VERSION": "",
}
USER = types.SimpleNamespace(id="1", role="admin", name="me", email="me@example.com")


async def upload(request: Any, data: Any, content_type: Any, metadata: Any, user: Any, db: Any = None) -> Any:
    assert data is not None
    assert content_type.startswith("image/")
    uploaded.append(data)
    return None, {"url": "/x"}


async def image_config() -> Any:
    return types.SimpleNamespace(**settings)


async def upsert(values: Any) -> None:
    """Nothing."""


images.upload_image, images.get_image_config, images.Config.upsert = upload, image_config, upsert


def call(function: Any, form: Any, **changed: Any) -> list[bytes]:
    """What one of the router's functions gives to the store of files."""
    uploaded.clear()
    before = dict(settings)
    settings.update(changed)

    async def asked() -> None:
        async with aiohttp.ClientSession() as session:

            async def get_session() -> Any:
                return session

            images.get_session = get_session
            await function(types.SimpleNamespace(app=MagicMock()), form, user=USER)

    try:
        asyncio.run(asked())
    finally:
        settings.update(before)
    assert all(is_png(data) for data in uploaded)
    return list(uploaded)


def engine_openai() -> None:
    for model in ("gpt-image-1", "dall-e-3", "builtin"):
        form = images.CreateImageForm(prompt="a red circle", size="512x512", n=1)
        assert len(call(images.image_generations, form, IMAGE_GENERATION_MODEL=model)) == 1


def engine_automatic1111() -> None:
    form = images.CreateImageForm(prompt="a red circle", n=2, negative_prompt="blue", model="builtin")
    assert len(call(images.image_generations, form, IMAGE_GENERATION_ENGINE="automatic1111")) == 2


def edits() -> None:
    url = "data:image/png;base64," + base64.b64encode(picture().read()).decode()
    for image in (url, [url]):
        form = images.EditImageForm(image=image, prompt="a star")
        assert len(call(images.image_edits, form)) == 1


run(engine_openai, engine_automatic1111, edits)
