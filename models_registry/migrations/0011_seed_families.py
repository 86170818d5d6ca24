"""Rows of well-known models of newer families, disabled until an operator enables them: some take a large card.

Repositories, licences and defaults as their cards state them; revisions are pinned where they are first downloaded.
"""

from django.db import migrations

SQUARE = {"default_width": 1024, "default_height": 1024, "min_size": 256, "max_size": 2048, "size_multiple": 16}
CHECKPOINTS = (
    {
        "id": "sd-xl-inpainting",
        "name": "Stable Diffusion XL inpainting 0.1",
        "repository": "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        "family": "sdxl",
        "pipeline": "StableDiffusionXLInpaintPipeline",
        "variant": "fp16",
        "licence": "openrail++",
        "default_steps": 20,
        "default_guidance_scale": 8.0,
    },
    {
        "id": "sd-3-5-medium",
        "name": "Stable Diffusion 3.5 medium",
        "repository": "stabilityai/stable-diffusion-3.5-medium",
        "family": "sd3",
        "pipeline": "StableDiffusion3Pipeline",
        "licence": "stabilityai-ai-community",
        "gated": True,
        "default_steps": 40,
        "default_guidance_scale": 4.5,
    },
    {
        "id": "sd-3-5-large",
        "name": "Stable Diffusion 3.5 large",
        "repository": "stabilityai/stable-diffusion-3.5-large",
        "family": "sd3",
        "pipeline": "StableDiffusion3Pipeline",
        "licence": "stabilityai-ai-community",
        "gated": True,
        "default_steps": 28,
        "default_guidance_scale": 3.5,
    },
    {
        "id": "flux-1-dev",
        "name": "FLUX.1 [dev]",
        "repository": "black-forest-labs/FLUX.1-dev",
        "family": "flux",
        "pipeline": "FluxPipeline",
        "licence": "flux-1-dev-non-commercial-license",
        "gated": True,
        "default_steps": 50,
        "default_guidance_scale": 3.5,
    },
    {
        "id": "flux-1-schnell",
        "name": "FLUX.1 [schnell]",
        "repository": "black-forest-labs/FLUX.1-schnell",
        "family": "flux",
        "pipeline": "FluxPipeline",
        "distilled": True,
        "licence": "apache-2.0",
        "default_steps": 4,
        "default_guidance_scale": 0.0,
    },
    {
        "id": "flux-1-kontext-dev",
        "name": "FLUX.1 Kontext [dev]",
        "repository": "black-forest-labs/FLUX.1-Kontext-dev",
        "family": "flux",
        "pipeline": "FluxKontextPipeline",
        "licence": "flux-1-dev-non-commercial-license",
        "gated": True,
        "default_steps": 28,
        "default_guidance_scale": 2.5,
    },
    {
        "id": "qwen-image",
        "name": "Qwen-Image",
        "repository": "Qwen/Qwen-Image",
        "family": "qwen-image",
        "pipeline": "QwenImagePipeline",
        "licence": "apache-2.0",
        "default_steps": 50,
        "default_guidance_scale": 4.0,
    },
    {
        "id": "qwen-image-edit",
        "name": "Qwen-Image-Edit",
        "repository": "Qwen/Qwen-Image-Edit",
        "family": "qwen-image",
        "pipeline": "QwenImageEditPipeline",
        "licence": "apache-2.0",
        "default_steps": 50,
        "default_guidance_scale": 4.0,
    },
    {
        "id": "qwen-image-edit-2509",
        "name": "Qwen-Image-Edit 2509",
        "repository": "Qwen/Qwen-Image-Edit-2509",
        "family": "qwen-image",
        "pipeline": "QwenImageEditPlusPipeline",
        "licence": "apache-2.0",
        "default_steps": 40,
        "default_guidance_scale": 4.0,
    },
    {
        "id": "z-image-turbo",
        "name": "Z-Image Turbo",
        "repository": "Tongyi-MAI/Z-Image-Turbo",
        "family": "z-image",
        "pipeline": "ZImagePipeline",
        "licence": "apache-2.0",
        "default_steps": 9,
        "default_guidance_scale": 0.0,
    },
    {
        "id": "chroma-1-hd",
        "name": "Chroma1-HD",
        "repository": "lodestones/Chroma1-HD",
        "family": "chroma",
        "pipeline": "ChromaPipeline",
        "licence": "apache-2.0",
        "default_steps": 40,
        "default_guidance_scale": 3.0,
    },
    {
        "id": "pixart-sigma-xl",
        "name": "PixArt-Sigma XL",
        "repository": "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        "family": "pixart",
        "pipeline": "PixArtSigmaPipeline",
        "licence": "openrail++",
        "default_steps": 20,
        "default_guidance_scale": 4.5,
    },
    {
        "id": "lumina-image-2",
        "name": "Lumina-Image 2.0",
        "repository": "Alpha-VLLM/Lumina-Image-2.0",
        "family": "lumina2",
        "pipeline": "Lumina2Pipeline",
        "licence": "apache-2.0",
        "default_steps": 50,
        "default_guidance_scale": 4.0,
    },
)


def seed(apps, schema_editor):
    """Adds the rows that are missing; an operator's own row for the same repository stays the only one."""
    rows = apps.get_model("models_registry", "Checkpoint").objects
    for values in CHECKPOINTS:
        if not rows.filter(repository=values["repository"]).exists():
            rows.get_or_create(id=values["id"], defaults={**SQUARE, "enabled": False, **values})


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0010_builtin_dtype")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
