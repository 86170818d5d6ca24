"""A1111's own API tests, at 512x512: its payloads rebuilt and its assertions, as functions of a client.

Source: AUTOMATIC1111/stable-diffusion-webui, `test/test_txt2img.py`, `test_img2img.py`, `test_utils.py` and
`test_extras.py`. Each function is given the client and answers whether the test passes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from tests.support.pictures import encoded, gradient, mask_of, text_of

PICTURE = text_of(encoded(gradient(512, 512)))
MASK = text_of(encoded(mask_of(gradient(512, 512))))
_COMMON: Mapping[str, Any] = {
    "batch_size": 1, "cfg_scale": 7, "eta": 0, "height": 512, "n_iter": 1, "negative_prompt": "",
    "prompt": "example prompt", "restore_faces": False, "s_churn": 0, "s_noise": 1, "s_tmax": 0, "s_tmin": 0,
    "sampler_index": "Euler a", "seed": -1, "seed_resize_from_h": -1, "seed_resize_from_w": -1, "steps": 3,
    "styles": [], "subseed": -1, "subseed_strength": 0, "tiling": False, "width": 512,
}  # fmt: skip
_TXT2IMG: Mapping[str, Any] = {
    **_COMMON, "denoising_strength": 0, "enable_hr": False, "firstphase_height": 0, "firstphase_width": 0,
}  # fmt: skip
_IMG2IMG: Mapping[str, Any] = {
    **_COMMON, "denoising_strength": 0.75, "include_init_images": False, "init_images": [PICTURE],
    "inpaint_full_res": False, "inpaint_full_res_padding": 0, "inpainting_fill": 0, "inpainting_mask_invert": False,
    "mask": None, "mask_blur": 4, "override_settings": {}, "resize_mode": 0,
}  # fmt: skip
_UPSCALING: Mapping[str, Any] = {
    "resize_mode": 0, "show_extras_results": True, "gfpgan_visibility": 0, "codeformer_visibility": 0,
    "codeformer_weight": 0, "upscaling_resize": 2, "upscaling_resize_w": 128, "upscaling_resize_h": 128,
    "upscaling_crop": True, "upscaler_1": "Lanczos", "upscaler_2": "None", "extras_upscaler_2_visibility": 0,
    "image": PICTURE,
}  # fmt: skip
_COMPLEX = "((emphasis)), (emphasis1:1.1), [to:1], [from::2], [from:to:0.3], [alt|alt1]"

Check = Callable[[httpx2.Client], bool]


def _posted(route: str, body: Mapping[str, Any]) -> Check:
    return lambda http: http.post(f"/sdapi/v1/{route}", json=dict(body)).status_code == 200


def _got(route: str) -> Check:
    return lambda http: http.get(f"/sdapi/v1/{route}").status_code == 200


def _options_write(http: httpx2.Client) -> bool:
    url = "/sdapi/v1/options"
    before = http.get(url)
    value = before.json()["send_seed"]
    written = http.post(url, json={"send_seed": not value})
    after = http.get(url)
    http.post(url, json={"send_seed": value})
    statuses = {before.status_code, written.status_code, after.status_code}
    return statuses == {200} and after.json()["send_seed"] == (not value)


CHECKS: dict[str, Check] = {
    "txt2img simple": _posted("txt2img", _TXT2IMG),
    "txt2img negative prompt": _posted("txt2img", {**_TXT2IMG, "negative_prompt": "example negative prompt"}),
    "txt2img complex prompt": _posted("txt2img", {**_TXT2IMG, "prompt": _COMPLEX}),
    "txt2img not square": _posted("txt2img", {**_TXT2IMG, "height": 1024}),
    "txt2img hires fix": _posted("txt2img", {**_TXT2IMG, "enable_hr": True}),
    "txt2img tiling": _posted("txt2img", {**_TXT2IMG, "tiling": True}),
    "txt2img restore faces": _posted("txt2img", {**_TXT2IMG, "restore_faces": True}),
    **{
        f"txt2img {sampler}": _posted("txt2img", {**_TXT2IMG, "sampler_index": sampler})
        for sampler in ("PLMS", "DDIM", "UniPC")
    },
    "txt2img batches": _posted("txt2img", {**_TXT2IMG, "n_iter": 2}),
    "txt2img batch": _posted("txt2img", {**_TXT2IMG, "batch_size": 2}),
    "img2img simple": _posted("img2img", _IMG2IMG),
    "img2img masked": _posted("img2img", {**_IMG2IMG, "mask": MASK}),
    "img2img inverted mask": _posted("img2img", {**_IMG2IMG, "mask": MASK, "inpainting_mask_invert": True}),
    "img2img sd upscale": _posted(
        "img2img", {**_IMG2IMG, "script_name": "sd upscale", "script_args": ["", 8, "Lanczos", 2.0]}
    ),
    "options write": _options_write,
    **{
        f"get {name}": _got(name)
        for name in (
            *("cmd-flags", "samplers", "upscalers", "sd-models", "hypernetworks", "face-restorers"),
            *("realesrgan-models", "prompt-styles", "embeddings"),
        )
    },
    "extras upscaling": _posted("extra-single-image", _UPSCALING),
    "extras png info": _posted("extra-single-image", {"image": PICTURE}),
    "extras interrogate": _posted("extra-single-image", {"image": PICTURE, "model": "clip"}),
}
