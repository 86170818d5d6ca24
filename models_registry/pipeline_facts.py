"""What each pipeline class of diffusers draws, and what a request's fields become in its call.

A closed list: a class that is not in it is refused before anything of its repository is downloaded. What stands here is
compared with the installed classes by a test. Knows neither Django nor torch.
"""

from dataclasses import dataclass, replace
from typing import Final

TXT2IMG, IMG2IMG, INPAINT, EDIT = "txt2img", "img2img", "inpaint", "edit"

# What `guidance_scale` does:
# two predictions, with and without the prompt, are weighed against each other above 1;
CLASSIFIER_FREE = "classifier_free"
# the same above 0, where 0 is off: the scale counts what is added to the prediction with the prompt;
ADDED = "added"
# the same above 1, under the name `true_cfg_scale`, and only beside a negative prompt, which may be a space;
TRUE_CFG = "true_cfg"
# the model was taught to take it as an input, and draws once per step;
EMBEDDED = "embedded"
# nothing: the model was distilled to do without.
WITHOUT = "none"
GUIDANCE_WORDS: Final = (CLASSIFIER_FREE, ADDED, TRUE_CFG, EMBEDDED, WITHOUT)

# What the previews find in the middle of a run: channels x height x width, or a sequence of patches.
SPATIAL, PACKED = "spatial", "packed"


@dataclass(frozen=True)
class PipelineFacts:
    """What one pipeline class does.

    `family` is that of its checkpoints, "" where their rows say it. `guidance` is one of the words above;
    `negative_prompt` whether there is such a thing, `true_cfg_scale` whether it takes two scales, of which that one
    needs a negative prompt. `weighted_prompts` whether its text encoders are CLIP's alone, whose prompts may have
    weights. `first_block_cache` whether diffusers has that step cache for its denoiser. `max_images` is how many
    pictures an edit takes. `max_prompt_tokens` is what its longest-reading text encoder reads. `half` is the half
    precision that its weights were made for.
    """

    family: str
    kinds: tuple[str, ...] = (TXT2IMG, IMG2IMG, INPAINT)
    guidance: str = CLASSIFIER_FREE
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 20.0
    negative_prompt: bool = True
    true_cfg_scale: bool = False
    guidance_rescale: bool = False
    weighted_prompts: bool = False
    first_block_cache: bool = False
    max_images: int = 0
    size_multiple: int = 8
    max_prompt_tokens: int = 77
    loras: bool = True
    latents: str = SPATIAL
    half: str = "bfloat16"

    @property
    def makes(self) -> str:
        """Its kinds, as a part of a sentence."""
        return " and ".join(self.kinds)


_UNET: Final = PipelineFacts("", guidance_rescale=True, weighted_prompts=True, half="float16")
_SDXL: Final = replace(_UNET, family="sdxl")
_FLUX: Final = PipelineFacts(
    "flux",
    guidance=EMBEDDED,
    min_guidance_scale=0.0,
    true_cfg_scale=True,
    first_block_cache=True,
    size_multiple=16,
    max_prompt_tokens=512,
    latents=PACKED,
)
# Its two kinds of blocks return what the cache cannot hold against each other.
_FLUX2: Final = replace(
    _FLUX,
    family="flux2",
    kinds=(TXT2IMG, EDIT),
    negative_prompt=False,
    true_cfg_scale=False,
    first_block_cache=False,
    max_images=10,
)
_QWEN: Final = PipelineFacts(
    "qwen-image",
    guidance=TRUE_CFG,
    first_block_cache=True,
    size_multiple=16,
    max_prompt_tokens=512,
    latents=PACKED,
)
_TEXT_ONLY: Final = PipelineFacts("other", kinds=(TXT2IMG,), size_multiple=16, max_prompt_tokens=256)

PIPELINES: Final[dict[str, PipelineFacts]] = {
    "StableDiffusionPipeline": _UNET,
    "StableDiffusionInpaintPipeline": replace(_UNET, kinds=(INPAINT,), guidance_rescale=False),
    "StableDiffusionXLPipeline": _SDXL,
    "StableDiffusionXLInpaintPipeline": replace(_SDXL, kinds=(INPAINT,)),
    "StableDiffusion3Pipeline": PipelineFacts("sd3", size_multiple=16, max_prompt_tokens=256),
    "FluxPipeline": _FLUX,
    "FluxKontextPipeline": replace(_FLUX, kinds=(TXT2IMG, EDIT), max_images=1),
    "Flux2Pipeline": _FLUX2,
    "Flux2KleinPipeline": replace(_FLUX2, guidance=CLASSIFIER_FREE, min_guidance_scale=1.0, max_images=4),
    "QwenImagePipeline": _QWEN,
    "QwenImageEditPipeline": replace(_QWEN, kinds=(EDIT,), max_images=1),
    "QwenImageEditPlusPipeline": replace(_QWEN, kinds=(EDIT,), max_images=3),
    "ZImagePipeline": PipelineFacts(
        "z-image", guidance=ADDED, min_guidance_scale=0.0, size_multiple=16, max_prompt_tokens=512
    ),
    "ChromaPipeline": replace(
        _TEXT_ONLY, family="chroma", kinds=(TXT2IMG,), max_prompt_tokens=512, latents=PACKED
    ),
    "SanaPipeline": replace(_TEXT_ONLY, family="sana", size_multiple=32, max_prompt_tokens=300),
    "PixArtSigmaPipeline": replace(_TEXT_ONLY, family="pixart", max_prompt_tokens=300, loras=False),
    "PixArtAlphaPipeline": replace(_TEXT_ONLY, family="pixart", max_prompt_tokens=120, loras=False),
    "Lumina2Pipeline": replace(_TEXT_ONLY, family="lumina2"),
    "HiDreamImagePipeline": replace(_TEXT_ONLY, max_prompt_tokens=128),
    "AuraFlowPipeline": _TEXT_ONLY,
    "CogView4Pipeline": replace(_TEXT_ONLY, first_block_cache=True, max_prompt_tokens=1024),
    "HunyuanDiTPipeline": replace(_TEXT_ONLY, guidance_rescale=True, loras=False),
    "LatentConsistencyModelPipeline": PipelineFacts(
        "sd1", kinds=(TXT2IMG, IMG2IMG), guidance=EMBEDDED, negative_prompt=False, half="float16"
    ),
}
# Of families whose rows need not name a class.
_OF_FAMILY: Final = {
    "builtin": "StableDiffusionPipeline",
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
    "flux2": "Flux2Pipeline",
    "qwen-image": "QwenImagePipeline",
    "z-image": "ZImagePipeline",
    "chroma": "ChromaPipeline",
    "sana": "SanaPipeline",
    "pixart": "PixArtSigmaPipeline",
    "lumina2": "Lumina2Pipeline",
}
# Of a repository whose index nobody has seen: nothing is refused that may turn out to be right.
_UNKNOWN: Final = PipelineFacts(
    "other",
    min_guidance_scale=0.0,
    first_block_cache=True,
    kinds=(TXT2IMG, IMG2IMG, INPAINT, EDIT),
    max_images=16,
)


def pipeline_facts(*, pipeline: str, family: str, distilled: bool = False) -> PipelineFacts:
    """The facts of a class; where its name is not known yet, of what checkpoints of that family are made for.

    `distilled` checkpoints take no guidance, whatever their class does.
    """
    facts = PIPELINES.get(pipeline) or PIPELINES.get(_OF_FAMILY.get(family, ""), _UNKNOWN)
    if not distilled:
        return facts
    # Two scales and a negative prompt are left where the class has both.
    return replace(facts, guidance=WITHOUT, negative_prompt=facts.true_cfg_scale)
