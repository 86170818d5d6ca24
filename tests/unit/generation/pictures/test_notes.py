"""Notes are taken out of files, and nothing else."""

from io import BytesIO

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from generation.pictures.notes import notes_removed
from tests.support.pictures import decoded, encoded, gradient

PROMPT = "a secret circle"


def noted(picture_format: str) -> bytes:
    """A file that says how it was made, as the service writes it."""
    if picture_format == "PNG":
        notes = PngInfo()
        notes.add_text("parameters", PROMPT)
        notes.add_itxt("imagegen", PROMPT)
        return encoded(gradient(), "PNG", pnginfo=notes)
    exif = Image.Exif()
    exif[0x010E] = PROMPT
    return encoded(gradient(), picture_format, exif=exif)


@pytest.mark.parametrize("picture_format", ["PNG", "JPEG", "WEBP"])
def test_nothing_but_the_notes_goes(picture_format: str) -> None:
    """The rest is as it was, bit for bit; a file without notes stays what it is."""
    data = noted(picture_format)
    assert PROMPT.encode() in data
    bare = notes_removed(data)
    assert PROMPT.encode() not in bare
    assert decoded(bare).tobytes() == decoded(data).tobytes()
    with Image.open(BytesIO(bare)) as picture:
        assert (picture.format, dict(picture.getexif())) == (picture_format, {})
    assert notes_removed(bare) == bare == notes_removed(notes_removed(data))
    assert notes_removed(encoded(gradient(), picture_format)) == encoded(gradient(), picture_format)
