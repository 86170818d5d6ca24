"""The pictures of OpenAI's edits and variations: files, data URLs and addresses, and which part is to be drawn anew."""

from collections.abc import Mapping
from typing import Any

from PIL import Image
from rest_framework.exceptions import ErrorDetail, ValidationError

from generation.choices import Kind
from generation.compat.dialect import Params, refuse
from generation.errors import InvalidImageError
from generation.pictures.fetching import picture_fetch
from generation.pictures.reading import Picture, picture_made, picture_read
from generation.requests.picture_fields import PictureField
from models_registry.models import Checkpoint

MAX_PICTURES = 16  # OpenAI's


def pictures_read(params: Params, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """`image`, `image[]` or `images`, and `mask`, as native fields; the checkpoint may be unknown.

    A model that draws from one picture and a strength is given the picture; one that edits by instruction, all of them.
    Without a mask, what is fully transparent in the picture is drawn anew where the model can do that. Raises
    FetchBusyError.
    """
    name, given = "images", params.take("images")
    if given is None:
        name, given = "image", params.take("image", [])
    given = given if isinstance(given, list) else [given]
    kinds = checkpoint.facts.kinds if checkpoint else (Kind.IMG2IMG, Kind.INPAINT)
    mask = params.take("mask")
    edits = Kind.EDIT in kinds and mask is None
    most = checkpoint.facts.max_images if checkpoint and edits else 1
    pictures = _pictures(params, name, given, most=most, checkpoint=checkpoint)
    hole = None
    with params.noted():
        hole = _mask(_picture(mask, "mask")) if mask is not None else None
    if not pictures:
        return {}
    if edits and (len(pictures) > 1 or Kind.IMG2IMG not in kinds):
        return {"images": pictures}
    if hole is not None:
        return {"image": pictures[0], "mask_image": hole}
    own = _transparency(pictures[0]) if Kind.INPAINT in kinds else None
    return {"image": pictures[0], **({"mask_image": own} if own else {})}


def picture_read_one(params: Params) -> dict[str, Any]:
    """`image` alone, as the native field. Raises as `pictures_read`."""
    given = params.take("image", [])
    given = given if isinstance(given, list) else [given]
    pictures = _pictures(params, "image", given, most=1, checkpoint=None)
    return {"image": pictures[0]} if pictures else {}


def _pictures(
    params: Params, name: str, given: list[Any], *, most: int, checkpoint: Checkpoint | None
) -> list[Picture]:
    """The pictures; none where one of them cannot be read or there are too many."""
    pictures: list[Picture] = []
    with params.noted():
        _count_check(name, len(given), most=most, checkpoint=checkpoint)
        pictures += [_picture(picture, name) for picture in given]
    return pictures


def _count_check(name: str, count: int, *, most: int, checkpoint: Checkpoint | None) -> None:
    if not count:
        refuse(name, "A picture is expected.", "required")
    if count > MAX_PICTURES:
        refuse(name, f"At most {MAX_PICTURES} pictures.", "invalid_value")
    if count > most:
        model = checkpoint.id if checkpoint else "The model"
        takes = "1 picture" if most == 1 else f"{most} pictures at most"
        refuse(name, f"{model} takes {takes}, and {count} were given.", "invalid_value")


def _picture(value: Any, param: str) -> Picture:
    """A form's file, base64, a data URL, an address, or an object with one of these as `image_url`."""
    if isinstance(value, Mapping):
        if set(value) != {"image_url"}:
            refuse(param, "An object with `image_url` alone is expected; files are not kept here.")
        value = value["image_url"]
    try:
        if isinstance(value, str) and value.startswith(("https://", "http://")):
            return picture_read(picture_fetch(value))
        picture: Picture = PictureField().run_validation(value)
    except InvalidImageError as error:
        raise ValidationError({param: ErrorDetail(error.detail, error.code)}) from error
    except ValidationError as error:
        raise ValidationError({param: error.detail}) from error
    return picture


def _mask(picture: Picture) -> Picture:
    """The native mask, white where it is to be drawn anew: where OpenAI's is fully transparent."""
    with picture.decoded() as image:
        if image.mode != "RGBA":
            refuse(
                "mask",
                "Needs an alpha channel; what is fully transparent in it is drawn anew.",
                "invalid_image",
            )
        return picture_made(_see_through(image))


def _transparency(picture: Picture) -> Picture | None:
    """The same of the picture itself; None where no part of it is fully transparent."""
    if picture.data.startswith(b"\xff\xd8"):  # a JPEG has no such parts
        return None
    with picture.decoded() as image:
        if image.mode != "RGBA" or image.getchannel("A").getextrema()[0]:
            return None
        return picture_made(_see_through(image))


def _see_through(image: Image.Image) -> Image.Image:
    return image.getchannel("A").point(lambda alpha: 0 if alpha else 255)
