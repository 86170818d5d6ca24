"""What a picture's file says of how it was made: found, and taken apart as A1111 does it."""

import re
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image
from PIL.ExifTags import IFD, Base

from generation.errors import InvalidImageError
from generation.pictures.reading import picture_loaded

MAX_CHARACTERS: Final = 262_144
# How Exif marks a comment's characters.
_UNICODE: Final = b"UNICODE\0"
_ASCII: Final = b"ASCII\0\0\0"
_PAIR: Final = re.compile(r'([A-Za-z0-9][\w \-/]{0,99}): *("(?:[^"\\]|\\.)*"|[^,]*)(?:, *|$)')
_SIZE: Final = re.compile(r"(\d{1,6})x(\d{1,6})")
# Fewer than that are a line of the prompt that happens to hold a colon.
_LEAST_PAIRS: Final = 3
_NEGATIVE: Final = "Negative prompt:"


@dataclass(frozen=True)
class FileTexts:
    """What a picture's file says: A1111's `parameters`, this service's own JSON, each empty where there is none, and
    all texts but the first.
    """

    parameters: str
    receipt: str
    others: dict[str, str]


def infotext_read(data: bytes) -> FileTexts:
    """The texts in a PNG, JPEG or WebP file. Raises InvalidImageError."""
    # A PNG's texts may stand behind its pixels.
    with picture_loaded(data) as image:
        try:
            texts = {str(name): value for name, value in image.info.items() if isinstance(value, str)}
            parameters = texts.pop("parameters", "") or _comment(image)
            receipt = texts.get("imagegen", "") or str(image.getexif().get(Base.ImageDescription, ""))
        except Exception as error:
            raise InvalidImageError("The file is broken or cut off.") from error
    length = sum(len(name) + len(text) for name, text in texts.items())
    if len(parameters) + len(receipt) + length > MAX_CHARACTERS:
        raise InvalidImageError(f"Its texts have more than {MAX_CHARACTERS} characters.")
    others = {_storable(name): _storable(text) for name, text in texts.items()}
    return FileTexts(_storable(parameters), _storable(receipt), others)


def _comment(image: Image.Image) -> str:
    """The comment in Exif's notes, where JPEG and WebP have the parameters."""
    comment = image.getexif().get_ifd(IFD.Exif).get(Base.UserComment, b"")
    if isinstance(comment, str):
        return comment
    comment = bytes(comment)
    if comment.startswith(_UNICODE):
        return comment.removeprefix(_UNICODE).decode("utf-16-be", "replace")
    return comment.removeprefix(_ASCII).decode("utf-8", "replace")


def _storable(text: str) -> str:
    """The text without lone surrogates, which JSON's readers refuse."""
    return text.encode("utf-8", "replace").decode()


def infotext_parse(text: str) -> dict[str, Any]:
    """The parameters by name, as text; a size as two numbers. Empty for an empty text."""
    if not text.strip():
        return {}
    *lines, last = text.strip().split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < _LEAST_PAIRS:
        lines, pairs = [*lines, last], []
    prompt: list[str] = []
    negative: list[str] = []
    part = prompt
    for line in map(str.strip, lines):
        if line.startswith(_NEGATIVE):
            part = negative
            line = line.removeprefix(_NEGATIVE).strip()  # noqa: PLW2901 - the rest of the same line
        part.append(line)
    parameters: dict[str, Any] = {"Prompt": "\n".join(prompt), "Negative prompt": "\n".join(negative)}
    for name, value in pairs:
        if size := _SIZE.fullmatch(value):
            parameters |= {f"{name}-1": size[1], f"{name}-2": size[2]}
        else:
            parameters[name] = _unquoted(value)
    return {**parameters, "Clip skip": parameters.get("Clip skip", "1")}


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value.startswith('"') and value.endswith('"')
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if quoted else value.strip()
