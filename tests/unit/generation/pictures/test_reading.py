"""Reading, fitting and refusing input pictures."""

import io
import warnings as python_warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms, ImageStat

from generation.errors import InvalidImageError
from generation.pictures.fitting import image_prepare, mask_prepare, size_follow, size_near
from generation.pictures.reading import MAX_PICTURE_BYTES, Picture, base64_decode, picture_read
from tests.support.pictures import (
    decoded,
    encoded,
    gradient,
    jpeg_with_size,
    mask_of,
    png_header,
    text_of,
    webp_header,
)


def difference(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures, 0 to 255."""
    assert one.size == other.size
    return max(ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean)


def seen(data: bytes) -> Image.Image:
    """What a file shows, as the reader sees it."""
    with picture_read(data).decoded() as image:
        return image.copy()


def picture_of(image: Image.Image) -> Picture:
    """A picture as a client sends it."""
    return picture_read(encoded(image))


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("picture.png", encoded(gradient(16, 16)))
    return buffer.getvalue()


def jpeg_with(part: bytes) -> bytes:
    """A JPEG with something behind its start."""
    data = encoded(gradient(16, 16), "JPEG")
    return data[:2] + part + data[2:]


def png_with(chunk: bytes) -> bytes:
    """A PNG with a great many of these chunks."""
    data = encoded(gradient(16, 16))
    return data[:33] + chunk * 700_000 + data[33:]


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"not a picture",
    "html": lambda: b"<!DOCTYPE html><img src=x>",
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "zip": zip_file,
    "pdf": lambda: encoded(gradient(16, 16), "PDF"),
    "gif": lambda: encoded(gradient(16, 16), "GIF"),
    "bmp": lambda: encoded(gradient(16, 16), "BMP"),
    "tiff": lambda: encoded(gradient(16, 16), "TIFF"),
    "ico": lambda: encoded(gradient(16, 16), "ICO"),
    "eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "signature alone": lambda: b"\x89PNG\r\n\x1a\n",
    "jpeg start alone": lambda: b"\xff\xd8\xff",
    "jpeg without a frame": lambda: b"\xff\xd8\xff\xe0\x00\x04ab\xff\xd9",
    "jpeg of fill bytes": lambda: b"\xff\xd8" + b"\xff" * 1000,
    "jpeg with a bad length": lambda: b"\xff\xd8\xff\xe0\x00\x00" * 50,
    "jpeg of a million fill bytes": lambda: jpeg_with(b"\xff" * 1_000_000),
    "jpeg of a million empty segments": lambda: jpeg_with(b"\xff\xe1\x00\x02" * 1_000_000),
    "jpeg of a million bytes between segments": lambda: jpeg_with(b"\xff\xe1\x00\x02" + bytes(1_000_000)),
    "png of a million empty chunks": lambda: png_with(
        b"\0\0\0\0abCd" + zlib.crc32(b"abCd").to_bytes(4, "big")
    ),
    "webp start alone": lambda: b"RIFF\x00\x00\x00\x00WEBP",
    "webp of an unknown kind": lambda: b"RIFF\x20\x00\x00\x00WEBPVP9 " + bytes(20),
    "png bomb": lambda: png_header(65535, 65535),
    "png bomb below Pillow's own limit": lambda: png_header(10_000, 10_000),
    "png of the largest size": lambda: png_header(2**31 - 1, 2**31 - 1),
    "png without pixels": lambda: png_header(0, 9),
    "png with too few pixels": lambda: png_header(640, 480),
    "webp bomb": lambda: webp_header(2**24, 2**24),
    "webp bomb below Pillow's own limit": lambda: webp_header(10_000, 10_000),
    "webp with a frame beyond its canvas": lambda: webp_header(8, 8),
    "jpeg bomb": lambda: jpeg_with_size(65535, 65535),
    "jpeg of endless scans": lambda: encoded(gradient(16, 16), "JPEG") + b"\xff\xda" * 200,
    "jpeg called png": lambda: b"\x89PNG\r\n\x1a\n" + encoded(gradient(16, 16), "JPEG"),
    "too many bytes": lambda: encoded(gradient(16, 16)) + bytes(MAX_PICTURE_BYTES),
    "truncated png": lambda: encoded(gradient())[:-2000],
    "truncated jpeg": lambda: encoded(gradient(), "JPEG")[:-2000],
    "truncated webp": lambda: encoded(gradient(), "WEBP")[:-200],
    "png with a broken checksum": lambda: encoded(gradient()).replace(
        b"IHDR\x00\x00\x01\x40", b"IHDR\x00\x00\x01\x41"
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_picture_is_refused(name: str) -> None:
    """With a reason, and with nothing but this error, whatever the parsers make of it."""
    with pytest.raises(InvalidImageError) as refusal:
        picture_read(HOSTILE[name]())
    assert refusal.value.detail


@pytest.mark.parametrize("header", [png_header, webp_header, jpeg_with_size])
def test_a_bomb_is_refused_by_its_header(header: Callable[[int, int], bytes], monkeypatch: Any) -> None:
    """Pillow never sees it."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(InvalidImageError, match="4001x4000 are more than 16 million pixels"):
        picture_read(header(4001, 4000))


@pytest.mark.parametrize("name", [name for name in HOSTILE if "million" in name])
def test_what_takes_seconds_to_parse_is_refused_before_that(name: str, monkeypatch: Any) -> None:
    """Pillow reads such parts one by one, holding Python's lock."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(InvalidImageError):
        picture_read(HOSTILE[name]())


def test_what_cameras_write_is_no_such_thing() -> None:
    """Notes of a megabyte, a profile, padding before a marker."""
    notes = b"".join(b"\xff\xe2" + (65_535).to_bytes(2, "big") + bytes(65_533) for _ in range(16))
    assert picture_read(jpeg_with(notes + b"\xff" * 16)).size == (16, 16)


def test_scans_are_counted_by_their_pixels() -> None:
    """Each decodes all of them again."""
    large = encoded(Image.new("RGB", (4000, 4000)), "JPEG")
    assert picture_read(large).size == (4000, 4000)
    with pytest.raises(InvalidImageError, match="scans"):
        picture_read(large + b"\xff\xda" * 30)


def test_a_large_jpeg_is_decoded_small() -> None:
    """As small as the generation lets it be, without losing what the scaling needs; what is said of it stays true."""
    picture = picture_read(encoded(gradient(2000, 1000), "JPEG", quality=95))
    with picture.decoded(at_least=(500, 250)) as image:
        assert image.size == (500, 250)
    png, said = image_prepare(picture, (256, 128))
    assert "from 2000x1000" in str(said[0]["reason"])
    assert difference(decoded(png), gradient(2000, 1000).resize((256, 128), Image.Resampling.LANCZOS)) < 2


def test_sixteen_million_pixels_are_allowed() -> None:
    """And not one column more."""
    assert picture_read(encoded(Image.new("L", (4000, 4000)), "JPEG")).size == (4000, 4000)
    assert picture_read(encoded(Image.new("1", (16_000_000 // 250, 250)))).size == (64_000, 250)


def test_a_second_header_hides_no_bomb() -> None:
    """The size that Pillow takes is checked too."""
    honest, bomb = encoded(Image.new("L", (8, 8))), png_header(9000, 9000)
    with pytest.raises(InvalidImageError, match="9000x9000"):
        picture_read(honest[:33] + bomb[8:])


@pytest.mark.parametrize("picture_format", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_read(picture_format: str) -> None:
    """By content."""
    image = gradient()
    options = {"lossless": True} if picture_format == "WEBP" else {}
    data = encoded(image, picture_format, **options)
    picture = picture_read(data)
    assert (picture.size, seen(data).mode) == (image.size, "RGB")
    assert difference(seen(data), image) < (2 if picture_format == "JPEG" else 0.01)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
def test_every_kind_of_webp_is_read(lossless: bool, alpha: bool) -> None:  # noqa: FBT001
    """Each has another header; with alpha it is extended."""
    image = gradient(60, 35)
    if alpha:
        image.putalpha(128)
    assert picture_read(encoded(image, "WEBP", lossless=lossless)).size == (60, 35)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("picture_format", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_is_applied(picture_format: str, orientation: int) -> None:
    """Whichever way the camera was held, the same upright picture comes out, pixel by pixel."""
    upright = gradient(48, 32)
    from_upright = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(from_upright[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = (
        {"quality": 98, "subsampling": 0} if picture_format == "JPEG" else {"lossless": True}
    )
    data = encoded(stored, picture_format, exif=exif, **options)
    picture = picture_read(data)
    assert picture.size == upright.size
    assert difference(seen(data), upright) < (3 if picture_format == "JPEG" else 0.01)


@pytest.mark.parametrize("exif", [b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00", b"garbage"])
def test_broken_exif_is_no_broken_picture(exif: bytes) -> None:
    """The pixels are what is wanted. Pillow warns; outside tests that is no error."""
    python_warnings.simplefilter("ignore")
    assert picture_read(encoded(gradient(), "JPEG", exif=exif)).size == (320, 256)


def grey16() -> bytes:
    """A 16-bit grey PNG from black to white."""
    values = b"".join((column * 257).to_bytes(2, "little") for column in range(256))
    return encoded(Image.frombytes("I;16", (256, 2), values * 2))


def test_sixteen_bits_keep_their_brightness() -> None:
    """From black to white, not clipped at the first 255 of 65,535 values."""
    image = seen(grey16())
    assert [image.getpixel((column, 0)) for column in (0, 64, 128, 255)] == [
        (0, 0, 0),
        (64, 64, 64),
        (128, 128, 128),
        (255, 255, 255),
    ]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """Bilevel, grey, palette, with and without alpha, and print colours."""
    colour = Image.new("RGB", (20, 10), (255, 0, 0))
    data = encoded(colour.convert(mode), "JPEG" if mode == "CMYK" else "PNG") if mode != "PA" else b""
    if mode == "PA":
        image = colour.convert("P")
        data = encoded(image, "PNG", transparency=bytes([128] * 256))
    png, said = image_prepare(picture_read(data), (20, 10))
    image = decoded(png)
    assert image.mode == "RGB"
    red = {"1": 0, "L": 76, "LA": 76}.get(mode, 255)
    pixel = image.getpixel((5, 5))
    assert isinstance(pixel, tuple)
    if mode == "1":
        assert pixel[0] == pixel[1] == pixel[2]
    else:
        assert abs(pixel[0] - red) <= 3
    assert bool(said) is (mode == "PA")


def test_a_colour_profile_is_applied_and_a_broken_one_ignored() -> None:
    """sRGB changes nothing; in a profile that has red and green exchanged, red is green."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (srgb, lab, b"garbage", srgb[:200]):
        assert difference(seen(encoded(gradient(), icc_profile=profile)), gradient()) < 0.01
    exchanged = srgb.replace(b"rXYZ", b"held").replace(b"gXYZ", b"rXYZ").replace(b"held", b"gXYZ")
    for mode in ("RGB", "RGBA", "P"):
        image = Image.new("RGB", (8, 8), (255, 0, 0)).convert(mode)
        pixel = seen(encoded(image, icc_profile=exchanged)).getpixel((0, 0))
        assert isinstance(pixel, tuple)
        assert pixel[:3] == (0, 255, 0)


def test_transparent_parts_become_white_and_that_is_said() -> None:
    """Half of it is transparent; an opaque alpha channel is nothing to speak of."""
    image = Image.new("RGBA", (64, 64), (0, 0, 255, 255))
    png, said = image_prepare(picture_read(encoded(image)), (64, 64))
    assert (said, decoded(png).getpixel((9, 9))) == ([], (0, 0, 255))
    image.paste((0, 0, 255, 0), (0, 0, 32, 64))
    png, said = image_prepare(picture_read(encoded(image)), (64, 64))
    assert [(warning["param"], warning["used"]) for warning in said] == [("image", "white")]
    assert decoded(png).getpixel((9, 9)) == (255, 255, 255)
    assert decoded(png).getpixel((50, 9)) == (0, 0, 255)


@pytest.mark.parametrize("picture_format", ["WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_used_and_that_is_said(picture_format: str) -> None:
    """Also of one in PNG."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], picture_format, save_all=True, append_images=frames[1:], lossless=True)
    png, said = image_prepare(picture_read(data), (64, 64))
    assert [(warning["param"], warning["used"]) for warning in said] == [("image", "its first frame")]
    assert decoded(png).getpixel((9, 9)) == (255, 0, 0)


def test_a_telephones_jpeg_with_further_pictures_is_no_animation() -> None:
    """Its main picture is all that is meant."""
    data = encoded(gradient(), "MPO", save_all=True, append_images=[gradient(32, 32)])
    assert not picture_read(data).animated


def test_the_same_shape_is_resized_without_cropping() -> None:
    """Corner by corner."""
    png, said = image_prepare(picture_of(gradient(640, 320)), (512, 256))
    assert [(warning["param"], warning["used"]) for warning in said] == [("image", "512x256")]
    assert "Resized, from 640x320" in str(said[0]["reason"])
    assert difference(decoded(png), gradient(640, 320).resize((512, 256), Image.Resampling.LANCZOS)) < 0.01


@pytest.mark.parametrize(
    ("source", "band"), [((600, 200), (200, 0, 400, 200)), ((200, 600), (0, 200, 200, 400))]
)
def test_another_shape_is_cropped_around_its_centre(
    source: tuple[int, int], band: tuple[int, int, int, int]
) -> None:
    """Too wide loses its sides, too tall its top and bottom; nothing is distorted."""
    image = Image.new("RGB", source, "red")
    image.paste("blue", band)
    png, said = image_prepare(picture_of(image), (256, 256))
    fitted = decoded(png)
    assert (fitted.size, fitted.getpixel((128, 128))) == ((256, 256), (0, 0, 255))
    assert {fitted.getpixel(corner) for corner in ((9, 9), (246, 9), (9, 246), (246, 246))} == {(0, 0, 255)}
    assert "cropped" in str(said[0]["reason"])


def test_a_picture_that_fits_is_left_alone() -> None:
    """Not one pixel, not one word."""
    png, said = image_prepare(picture_of(gradient(256, 256)), (256, 256))
    assert (said, decoded(png).tobytes()) == ([], gradient(256, 256).tobytes())


@pytest.mark.parametrize("source", [(1, 1), (1, 5000), (5000, 1), (3, 7)])
def test_the_strangest_shapes_fit(source: tuple[int, int]) -> None:
    """A line becomes a picture of that colour."""
    png, _ = image_prepare(picture_of(Image.new("RGB", source, "red")), (512, 256))
    assert (decoded(png).size, decoded(png).getpixel((77, 77))) == ((512, 256), (255, 0, 0))


SD = {"low": 512, "high": 1024, "multiple": 8}


@pytest.mark.parametrize(
    ("picture", "asked", "expected"),
    [
        ((512, 768), (None, None), (512, 768)),
        ((600, 601), (None, None), (600, 600)),
        ((4000, 3000), (None, None), (1024, 768)),
        ((300, 400), (None, None), (512, 680)),
        ((100, 2000), (None, None), (512, 1024)),
        ((1, 1), (None, None), (512, 512)),
        ((800, 600), (1024, None), (1024, 768)),
        ((800, 600), (None, 600), (800, 600)),
        ((16_000_000, 1), (None, 512), (1024, 512)),
    ],
)
def test_the_size_follows_the_picture_within_the_models_limits(
    picture: tuple[int, int], asked: tuple[int | None, int | None], expected: tuple[int, int]
) -> None:
    """Its shape is kept as well as multiples and limits allow."""
    assert size_follow(picture, width=asked[0], height=asked[1], **SD) == expected


@given(
    st.integers(1, 65535),
    st.integers(1, 244),
    st.integers(8, 512),
    st.integers(0, 1024),
    st.sampled_from([1, 8, 16, 64]),
)
def test_any_picture_gets_an_allowed_size(wide: int, tall: int, low: int, room: int, multiple: int) -> None:
    """Multiples within the limits, for every picture and every model that allows any size at all."""
    limits = {"low": low, "high": low + room + multiple, "multiple": multiple}
    followed = size_follow((wide, tall), width=None, height=None, **limits)
    for side in (*followed, *size_near((wide, tall), **limits)):
        assert low <= side <= limits["high"]
        assert side % multiple == 0


def test_a_mask_is_black_and_white_and_cropped_like_its_picture() -> None:
    """White stays where the picture has what is to be repainted."""
    image = Image.new("RGB", (600, 200), "white")
    image.paste("red", (350, 50, 400, 150))
    mask = Image.new("L", (600, 200), 127)
    mask.paste(128, (350, 50, 400, 150))
    fitted, _ = image_prepare(picture_of(image), (256, 256))
    png, said = mask_prepare(picture_of(mask.convert("RGB")), (256, 256))
    prepared = decoded(png)
    assert (prepared.mode, said, set(prepared.tobytes())) == ("L", [], {0, 255})
    is_red = ImageChops.invert(decoded(fitted).getchannel("G")).point(lambda value: 255 * (value > 127))
    assert ImageStat.Stat(ImageChops.difference(prepared, is_red)).mean[0] < 255 * 0.02


def test_a_mask_painted_in_alpha_is_read_from_it() -> None:
    """Where nothing else tells the parts apart; with colours of its own, transparent means black."""
    painted = Image.new("RGBA", (64, 64), (9, 9, 9, 0))
    painted.paste((9, 9, 9, 255), (0, 0, 32, 64))
    assert [decoded(mask_prepare(picture_of(painted), (64, 64))[0]).getpixel((x, 9)) for x in (9, 50)] == [
        255,
        0,
    ]
    opaque = mask_of(gradient(64, 64)).convert("RGBA")
    assert [decoded(mask_prepare(picture_of(opaque), (64, 64))[0]).getpixel((x, 9)) for x in (9, 50)] == [
        0,
        255,
    ]
    opaque.paste((255, 255, 255, 0), (32, 32, 64, 64))
    prepared = decoded(mask_prepare(picture_of(opaque), (64, 64))[0])
    assert [prepared.getpixel((50, y)) for y in (9, 50)] == [255, 0]
    black = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    assert decoded(mask_prepare(picture_of(black), (64, 64))[0]).getbbox() is None


def test_a_black_mask_has_nothing_to_repaint() -> None:
    """That is said."""
    _, said = mask_prepare(picture_of(Image.new("RGB", (64, 64))), (256, 256))
    assert [(warning["param"], warning["used"]) for warning in said] == [("mask_image", None)]


@pytest.mark.parametrize(
    "prefix",
    ["", "data:image/png;base64,", "DATA:;BASE64,", "data:text/plain;charset=utf-8;base64,"],
)
def test_base64_and_data_uris_are_decoded(prefix: str) -> None:
    """Whatever type a data URI claims."""
    assert base64_decode(prefix + text_of(b"bytes")) == b"bytes"


@pytest.mark.parametrize(
    "text",
    [
        "Ynl0ZXM",
        "Ynl0ZXM==",
        "Ynl0\nZXM=",
        " Ynl0ZXM=",
        "Ynl0ZXM=Ynl0ZXM=",
        "-_-_",
        "ÿÿÿÿ",
        "data:image/png,raw",
        "data:image/png;base64",
        "https://example.com/a.png",
        "file:///etc/passwd",
        "=" * 8,
    ],
)
def test_other_text_is_refused(text: str) -> None:
    """No address is fetched, no file opened, nothing is guessed."""
    with pytest.raises(InvalidImageError):
        base64_decode(text)


def test_too_long_a_text_is_refused_before_it_is_decoded() -> None:
    """By its length."""
    with pytest.raises(InvalidImageError, match="10 MiB"):
        base64_decode("?" * (MAX_PICTURE_BYTES * 4 // 3 + 8))


SEEDS = [
    encoded(gradient(24, 16)),
    encoded(gradient(24, 16), "JPEG"),
    encoded(gradient(24, 16), "JPEG", progressive=True),
    encoded(gradient(24, 16), "WEBP"),
    encoded(gradient(24, 16), "WEBP", lossless=True),
    encoded(gradient(24, 16).convert("P")),
    grey16(),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SEEDS), st.data())
def test_no_damage_breaks_the_reader(seed: bytes, data: st.DataObject) -> None:
    """Flipped, cut and inserted bytes end as a picture or as the one refusal; never as another error."""
    damaged = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if len(damaged) < 2:
            break
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")  # Pillow's; outside tests they are no errors
        try:
            picture = picture_read(bytes(damaged))
        except InvalidImageError:
            return
    with picture.decoded() as image:
        assert (image.size, image.mode in {"RGB", "RGBA"}) == (picture.size, True)
    image_prepare(picture, (64, 64))
    mask_prepare(picture, (64, 64))
