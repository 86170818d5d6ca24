"""LangChain's wrapper of OpenAI's images, and the tool that agents use."""

import base64
import urllib.request

from checks import TOKEN, URL, is_png, run
from langchain_community.tools.openai_dalle_image_generation import OpenAIDALLEImageGenerationTool
from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper


def wrapper(**more):
    return DallEAPIWrapper(api_key=TOKEN, base_url=f"{URL}/v1", size="256x256", **more)


def DallEAPIWrapper_by_url() -> None:  # noqa: N802 - the class's name
    with urllib.request.urlopen(wrapper(model="dall-e-3").run("a red circle")) as answer:
        assert is_png(answer.read())


def two_pictures() -> None:
    urls = wrapper(model="dall-e-2", n=2).run("a red circle").split("\n")
    assert len(urls) == 2, urls


def the_tool_of_agents() -> None:
    url = OpenAIDALLEImageGenerationTool(api_wrapper=wrapper(model="dall-e-3")).invoke("a star")
    assert url.startswith(URL), base64.b64encode(url.encode()[:50])


run(DallEAPIWrapper_by_url, two_pictures, the_tool_of_agents)
