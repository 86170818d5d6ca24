"""An answer's JSON as HTML: addresses are links, long base64 is cut, and pictures are shown."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from django.urls import Resolver404, resolve
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

LONGEST_TEXT: Final = 2_000
_KEPT: Final = 60
_INDENT: Final = "  "
# How base64 of PNG, JPEG and WebP begins.
_MAGIC: Final = {"iVBORw0KGgo": "image/png", "/9j/": "image/jpeg", "UklGR": "image/webp"}
_THUMBNAIL: Final = 256
# No page: a browser would wait, or keep it as a file.
_STREAM: Final = "/events"
_SITE: Final = ("/api/", "/v1/", "/s/", "/ws/")


def json_html(value: Any, *, ids: str = "", depth: int = 0) -> SafeString:
    """The value as JSON in HTML. `ids`: the address of a row, with `{}` for the row's `id`."""
    inner, outer = "\n" + _INDENT * (depth + 1), "\n" + _INDENT * depth
    if isinstance(value, Mapping) and value:
        rows = (
            (inner, json.dumps(key, ensure_ascii=False), _member(key, one, ids, depth + 1))
            for key, one in value.items()
        )
        body = format_html_join(",", '{}<span class="key">{}</span>: {}', rows)
        return format_html("{{{}{}}}", body, outer)
    if isinstance(value, list | tuple) and value:
        items = ((inner, json_html(one, ids=ids, depth=depth + 1)) for one in value)
        return format_html("[{}{}]", format_html_join(",", "{}{}", items), outer)
    if isinstance(value, str):
        return _text(value)
    return format_html('<span class="plain">{}</span>', json.dumps(value))


def _member(key: str, value: Any, ids: str, depth: int) -> SafeString:
    if key == "id" and ids and isinstance(value, str):
        return format_html('<a href="{}">"{}"</a>', ids.format(value), value)
    return json_html(value, ids=ids if key in ("data", "results") else "", depth=depth)


def _text(value: str) -> SafeString:
    quoted = json.dumps(value, ensure_ascii=False)
    if len(value) > LONGEST_TEXT and " " not in value:
        return format_html(
            '<span class="text">{}…"</span> <i>{} characters</i>', quoted[:_KEPT], f"{len(value):,}"
        )
    if (
        not value.endswith(_STREAM)
        and value.startswith(("http://", "https://", *_SITE))
        and not any(one.isspace() for one in value)
    ):
        return format_html('<a href="{}" rel="nofollow noreferrer">{}</a>', value, quoted)
    return format_html('<span class="text">{}</span>', quoted)


@dataclass(frozen=True)
class ShownPicture:
    """A picture on the page: what to load, and what opens by a click."""

    source: str
    link: str
    title: str


def pictures_of(data: Any) -> list[ShownPicture]:
    """The pictures that an answer holds or leads to, those of its rows too."""
    found = []
    for one in _mappings(data):
        title = str(one.get("prompt") or one.get("index", ""))
        address = _path_of(one.get("url"))
        texts = [text for name, text in one.items() if isinstance(text, str) and len(text) > _KEPT]
        inline = next((text for text in texts if media_type_of(text)), None)
        if str(one.get("content_type", "")).startswith("image/") and address:
            joint = "&" if "?" in address else "?"
            found.append(ShownPicture(f"{address}{joint}width={_THUMBNAIL}", address, title))
        elif inline:
            found.append(ShownPicture(f"data:{media_type_of(inline)};base64,{inline}", address, title))
    return found


def media_type_of(text: str) -> str:
    """Which kind of picture base64 text is; "" for other text."""
    return next((name for magic, name in _MAGIC.items() if text.startswith(magic)), "")


def _mappings(data: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(data, Mapping):
        yield data
        for value in data.values():
            yield from _mappings(value)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _mappings(value)


def _path_of(url: Any) -> str:
    """The address without its host: pages may only load from the host that they came from."""
    parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
    return parts.path + (f"?{parts.query}" if parts.query else "")


@dataclass(frozen=True)
class Way:
    """Where an answer leads: by a link, or by a button that posts."""

    name: str
    path: str
    posts: bool

    @property
    def label(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ").capitalize()


def ways_of(data: Any) -> list[Way]:
    """The addresses in an answer's `urls`, which are those that its state allows."""
    urls = data.get("urls") if isinstance(data, Mapping) else None
    if not isinstance(urls, Mapping):
        return []
    found = [
        (name, url)
        for name, url in urls.items()
        if isinstance(url, str) and url.startswith("http") and not url.endswith(_STREAM)
    ]
    return [Way(name, _path_of(url), _only_posts(_path_of(url))) for name, url in found]


def _only_posts(path: str) -> bool:
    try:
        view = resolve(path.partition("?")[0]).func
    except Resolver404:
        return False
    actions = getattr(view, "actions", None)
    methods = actions or vars(getattr(view, "cls", object))
    return "post" in methods and "get" not in methods
