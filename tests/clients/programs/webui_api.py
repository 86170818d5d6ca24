"""`webuiapi`: the calls that it has for A1111 itself, by reflection, so that a newer version's are seen too."""

import webuiapi
from checks import TOKEN, URL, run
from PIL import Image

host, _, port = URL.removeprefix("http://").partition(":")
api = webuiapi.WebUIApi(host=host, port=int(port), username="me", password=TOKEN)
SMALL = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2}
# What only reads, of the client's own list.
LISTS = [
    name
    for name in dir(api)
    if name.startswith("get_") and name not in ("get_endpoint", "get_face_restorer_names", "get_scripts_info")
]


def txt2img() -> None:
    assert len(api.txt2img(**SMALL, batch_size=2).images) == 2


def img2img_and_inpainting() -> None:
    image, mask = Image.open("in.png").convert("RGB"), Image.new("L", (256, 256), 255)
    assert api.img2img(images=[image], **SMALL).image.size == (256, 256)
    assert api.img2img(images=[image], mask_image=mask, **SMALL).image.size == (256, 256)


def extras() -> None:
    image = Image.open("in.png").convert("RGB")
    assert api.extra_single_image(image, upscaler_1="Lanczos", upscaling_resize=2).image.size == (512, 512)
    assert len(api.extra_batch_images([image, image], upscaler_1="Lanczos").images) == 2


def png_info() -> None:
    assert "red circle" in str(api.png_info(api.txt2img(**SMALL).image).info)


def lists() -> None:
    for name in LISTS:
        getattr(api, name)()


def options_and_models() -> None:
    options = api.get_options()
    api.set_options({"sd_model_checkpoint": options["sd_model_checkpoint"], "CLIP_stop_at_last_layers": 1})
    names = api.util_get_model_names()
    api.util_set_model(names[0])
    assert api.util_get_current_model()


def progress_and_interrupt() -> None:
    assert "progress" in api.get_progress()
    api.interrupt()
    api.skip()
    api.refresh_checkpoints()


run(txt2img, img2img_and_inpainting, extras, png_info, lists, options_and_models, progress_and_interrupt)
