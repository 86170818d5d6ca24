"""What a model cannot do is refused at the door, by the field that asks for it; what has no effect is said."""

import io
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from generation.models import Generation
from loras.models import Lora
from models_registry.models import Checkpoint
from tests.support.pictures import MASK, PICTURE, decoded, encoded, gradient, kept, params_of, text_of

BASE = "/api/v1/generations"
ONE = text_of(PICTURE)


@pytest.fixture(autouse=True)
def models(db: None) -> None:
    """A row per family, as if its index had been read."""
    sizes = {"min_size": 64, "max_size": 1024}
    for pipeline, family, distilled in (
        ("FluxPipeline", "flux", False),
        ("FluxPipeline", "flux", True),
        ("FluxKontextPipeline", "flux", False),
        ("Flux2KleinPipeline", "flux2", True),
        ("QwenImagePipeline", "qwen-image", False),
        ("QwenImageEditPipeline", "qwen-image", False),
        ("QwenImageEditPlusPipeline", "qwen-image", False),
        ("ZImagePipeline", "z-image", False),
        ("SanaPipeline", "sana", False),
        ("PixArtSigmaPipeline", "pixart", False),
        ("StableDiffusionXLPipeline", "sdxl", False),
        ("StableDiffusionXLInpaintPipeline", "sdxl", False),
        ("ChromaPipeline", "chroma", False),
    ):
        name = f"{pipeline.removesuffix('Pipeline').lower()}{'-distilled' if distilled else ''}"
        Checkpoint.objects.create(
            id=name, name=name, repository=f"org/{name}", family=family, licence="mit", pipeline=pipeline,
            distilled=distilled, default_guidance_scale=4.0, **sizes,
        )  # fmt: skip


# Model, what is asked for, which field is to blame.
REFUSED: list[tuple[str, dict[str, Any], set[str]]] = [
    ("builtin", {"kind": "edit", "images": [ONE]}, {"kind"}),
    ("builtin", {"images": [ONE]}, {"images"}),
    ("builtin", {"guidance_scale": 0.5}, {"guidance_scale"}),
    ("builtin", {"images": []}, {"images"}),
    ("stablediffusionxl", {"guidance_scale": 0}, {"guidance_scale"}),
    ("stablediffusionxl", {"kind": "edit", "image": ONE}, {"kind"}),
    ("stablediffusionxlinpaint", {}, {"prompt"}),
    ("stablediffusionxlinpaint", {"image": ONE}, {"image"}),
    ("flux", {"images": [ONE]}, {"images"}),
    ("flux", {"width": 72}, {"width"}),
    ("flux", {"true_cfg_scale": 0.5}, {"true_cfg_scale"}),
    ("flux", {"guidance_scale": 21}, {"guidance_scale"}),
    ("flux", {"guidance_rescale": 1.5}, {"guidance_rescale"}),
    ("fluxkontext", {"image": ONE, "strength": 0.5}, {"strength"}),
    ("fluxkontext", {"kind": "img2img", "image": ONE}, {"kind"}),
    ("fluxkontext", {"image": ONE, "mask_image": text_of(MASK)}, {"mask_image"}),
    ("fluxkontext", {"images": [ONE, ONE]}, {"images"}),
    ("fluxkontext", {"images": [ONE], "image": ONE}, {"image"}),
    ("fluxkontext", {"kind": "edit"}, {"images"}),
    ("fluxkontext", {"kind": "edit", "images": [ONE[:-5]]}, {"images.0"}),
    ("flux2klein-distilled", {"images": [ONE] * 5}, {"images"}),
    ("flux2klein-distilled", {"images": [ONE] * 17}, {"images"}),
    ("qwenimage", {"width": 72}, {"width"}),
    ("qwenimage", {"guidance_scale": 2, "true_cfg_scale": 3}, {"true_cfg_scale"}),
    ("qwenimageedit", {}, {"images"}),
    ("qwenimageedit", {"kind": "txt2img"}, {"kind"}),
    ("qwenimageedit", {"images": [ONE, ONE]}, {"images"}),
    ("qwenimageeditplus", {"images": [ONE] * 4}, {"images"}),
    ("qwenimageeditplus", {"images": [ONE], "strength": 0.5}, {"strength"}),
    ("zimage", {"height": 72}, {"height"}),
    ("zimage", {"guidance_scale": -1}, {"guidance_scale"}),
    ("sana", {"image": ONE}, {"image"}),
    ("sana", {"width": 80}, {"width"}),
    ("sana", {"scheduler": "euler"}, {"scheduler"}),
    ("pixartsigma", {"image": ONE, "mask_image": text_of(MASK)}, {"mask_image"}),
    ("pixartsigma", {"lora_path": "org/some-lora"}, {"lora_path"}),
    ("chroma", {"kind": "img2img", "image": ONE}, {"kind"}),
    ("chroma", {"scheduler": "ddim"}, {"scheduler"}),
]


@pytest.mark.parametrize(("model", "asked", "blamed"), REFUSED)
def test_what_a_model_cannot_do_is_refused(
    api: APIClient, model: str, asked: dict[str, Any], blamed: set[str]
) -> None:
    """Before anything is downloaded or stored."""
    answer = api.post(BASE, {"prompt": "a red circle", "model": model} | asked)
    assert (answer.status_code // 100, params_of(answer)) == (4, blamed), answer.content
    assert (Generation.objects.count(), kept()) == (0, [])
    assert not Checkpoint.objects.filter(download_requested_at__isnull=False).exists()


def test_the_refusal_says_what_the_model_does(api: APIClient) -> None:
    answer = api.post(BASE, {"prompt": "a", "model": "builtin", "kind": "edit", "images": [ONE]})
    assert "builtin makes txt2img and img2img and inpaint, and no edit." in answer.content.decode()


SAID: list[tuple[str, dict[str, Any], set[str]]] = [
    ("flux", {"negative_prompt": "blue"}, {"negative_prompt"}),
    ("flux", {"negative_prompt": "blue", "true_cfg_scale": 2.0}, set()),
    ("flux", {"guidance_rescale": 0.7}, {"guidance_rescale"}),
    ("flux", {"guidance_scale": 0}, set()),
    ("flux-distilled", {"guidance_scale": 7.0}, {"guidance_scale"}),
    ("flux2klein-distilled", {"negative_prompt": "blue"}, {"negative_prompt"}),
    ("qwenimage", {"negative_prompt": "blue"}, set()),
    ("qwenimage", {"negative_prompt": "blue", "true_cfg_scale": 1.0}, {"negative_prompt"}),
    ("zimage", {"guidance_scale": 0, "negative_prompt": "blue"}, {"negative_prompt"}),
    ("zimage", {"guidance_scale": 1.0, "negative_prompt": "blue"}, set()),
    ("stablediffusionxl", {"true_cfg_scale": 2.0}, {"true_cfg_scale"}),
    ("stablediffusionxl", {"guidance_rescale": 0.7}, set()),
    ("stablediffusionxl", {"guidance_rescale": 0.7, "guidance_scale": 1.0}, {"guidance_rescale"}),
    ("sana", {"clip_skip": 1}, {"clip_skip"}),
]


@pytest.mark.parametrize(("model", "asked", "warned"), SAID)
def test_what_has_no_effect_is_said(
    api: APIClient, model: str, asked: dict[str, Any], warned: set[str]
) -> None:
    """And is refused where the request was strict."""
    body = {"prompt": "a red circle", "model": model} | asked
    answer = api.post(BASE, body)
    assert answer.status_code == 202, answer.content
    assert {warning["param"] for warning in answer.json()["warnings"]} == warned
    assert api.post(BASE, body | {"strict": True}).status_code == (422 if warned else 202)


def test_qwens_scale_has_two_names(api: APIClient) -> None:
    answer = api.post(BASE, {"prompt": "a", "model": "qwenimage", "true_cfg_scale": 3.5}).json()
    assert (answer["guidance_scale"], answer["true_cfg_scale"]) == (3.5, None)


def test_pictures_are_edited(api: APIClient) -> None:
    """Each is kept in its own size, and can be had again; the first one's shape is the new picture's."""
    images = [text_of(encoded(gradient(320, 192), "PNG")), text_of(encoded(gradient(100, 300), "JPEG"))]
    answer = api.post(BASE, {"prompt": "blue", "model": "qwenimageeditplus", "images": images}).json()
    assert (answer["kind"], answer["strength"]) == ("edit", None)
    assert (answer["width"], answer["height"], answer["warnings"]) == (320, 192, [])
    sizes = [decoded(api.get(url).content).size for url in answer["urls"]["inputs"]]
    assert sizes == [(320, 192), (100, 300)]
    assert api.get(f"{answer['urls']['self']}/inputs/2").status_code == 404
    generation = Generation.objects.get()
    assert generation.input_bytes > 0
    assert len(kept()) == 2
    api.delete(answer["urls"]["self"])


def test_one_picture_may_stand_in_image(api: APIClient) -> None:
    """Where the model does nothing else with it, and in a form; too large a one is made smaller, and that is said."""
    form = {"prompt": "blue", "model": "fluxkontext", "image": encoded_file(gradient(2048, 1024))}
    answer = api.post(BASE, form, format="multipart").json()
    assert (answer["kind"], answer["width"], answer["height"]) == ("edit", 1024, 512)
    assert [(warning["param"], warning["used"]) for warning in answer["warnings"]] == [
        ("images.0", "1024x512")
    ]


def test_a_form_holds_several_files(api: APIClient) -> None:
    files = [encoded_file(gradient(64, 64)), encoded_file(gradient(64, 128))]
    answer = api.post(
        BASE, {"prompt": "a", "model": "qwenimageeditplus", "images": files}, format="multipart"
    )
    assert (answer.status_code, answer.json()["kind"]) == (202, "edit"), answer.content
    assert len(Generation.objects.get().input_images) == 2


def test_a_retry_edits_the_same_pictures(api: APIClient) -> None:
    first = api.post(BASE, {"prompt": "a", "model": "fluxkontext", "images": [ONE]}).json()
    api.post(first["urls"]["cancel"])
    again = api.post(f"{first['urls']['self']}/retry").json()
    assert again["kind"] == "edit"
    pictures = [api.get(answer["urls"]["inputs"][0]).content for answer in (first, again)]
    assert pictures[0] == pictures[1]


def test_hugging_faces_image_to_image_edits(api: APIClient) -> None:
    """With a model that edits; the other parameters are what they are for any picture."""
    body = {"inputs": ONE, "parameters": {"prompt": "blue", "num_inference_steps": 2}}
    api.post("/hf/fluxkontext", body, headers={"Prefer": "respond-async"})
    assert Generation.objects.get().kind == "edit"


def test_models_say_what_they_take(api: APIClient) -> None:
    """The same as the door does."""
    rows = {row["id"]: row for row in api.get("/api/v1/models").json()["data"]}
    edit = rows["qwenimageeditplus"]
    assert (edit["pipeline"], edit["kinds"]) == ("QwenImageEditPlusPipeline", ["edit"])
    assert (edit["limits"]["max_edit_images"], edit["limits"]["size_multiple"]) == (3, 16)
    assert edit["takes"] == {
        "guidance": "true_cfg",
        "negative_prompt": True,
        "true_cfg_scale": False,
        "guidance_rescale": False,
        "weighted_prompts": False,
        "first_block_cache": True,
        "loras": True,
    }
    assert rows["flux-distilled"]["takes"]["guidance"] == "none"
    assert rows["zimage"]["limits"]["min_guidance_scale"] == 0.0
    said = api.get("/api/v1/capabilities").json()
    assert "edit" in said["kinds"]
    assert said["pipelines"]["FluxKontextPipeline"]["kinds"] == ["txt2img", "edit"]


def test_an_unsupported_model_is_refused_for_good(api: APIClient) -> None:
    """Nothing is downloaded again, until its row names another source."""
    reason = {
        "error_code": "unsupported",
        "error_detail": "Its pipeline is of a class that is not supported.",
    }
    Checkpoint.objects.filter(id="sana").update(state="broken", **reason)
    answer = api.post(BASE, {"prompt": "a", "model": "sana"})
    assert (answer.status_code, params_of(answer)) == (400, {"model"})
    assert "of a class that is not supported" in answer.content.decode()
    assert Checkpoint.objects.get(id="sana").download_requested_at is None


def test_a_lora_of_qwen_is_not_for_flux(api: APIClient, owner: User) -> None:
    lora = Lora.objects.create(
        owner=owner, name="soft", state="present", family="qwen-image", rank=4, alpha=4.0, sha256="a" * 64,
        source="upload",
    )  # fmt: skip
    answer = api.post(BASE, {"prompt": "a", "model": "flux", "loras": [{"lora": str(lora.id)}]})
    assert answer.json()["code"] == "lora_incompatible"


def encoded_file(image: Any) -> Any:
    """A form's file."""
    file = io.BytesIO(encoded(image, "PNG"))
    file.name = "a.png"
    return file
