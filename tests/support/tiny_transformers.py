"""Tiny checkpoints of the families with a transformer, from FLUX.1 to Lumina 2.

Their parts are the real classes, with few and narrow layers; texts are read byte by byte.
"""

import warnings
from collections.abc import Callable
from typing import Any

from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from generation.engine.processors import PictureProcessor
from tests.support.tiny_parts import (
    t5_encoder,
    t5_tokenizer,
    text_encoder,
    tokenizer,
    vae,
)

WIDTH = 32
HEADS: dict[str, int] = {"hidden_size": WIDTH, "num_attention_heads": 4, "num_key_value_heads": 2}
SHIFTED = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)


def _qwen_tokenizer() -> Qwen2Tokenizer:
    words = [*sorted(ByteLevel.alphabet()), *SPECIAL]
    tokens = {word: index for index, word in enumerate(words)}
    made = Qwen2Tokenizer(vocab=tokens, merges=[], model_max_length=2048, chat_template=CHAT)
    made.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    return made


def _gemma_tokenizer() -> GemmaTokenizer:
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;'\"<>-\n"
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *letters]
    return GemmaTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=2048
    )


def _gemma(words: int) -> Gemma2Model:
    return Gemma2Model(
        Gemma2Config(vocab_size=words, intermediate_size=WIDTH, num_hidden_layers=2, head_dim=8, **HEADS)
    )


def _qwen3(made: type[Any], words: int, *, layers: int) -> Any:
    return made(
        Qwen3Config(vocab_size=words, intermediate_size=WIDTH, num_hidden_layers=layers, head_dim=8, **HEADS)
    )


def _qwen_reader(reader: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    ids = {name: reader.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    marks = {name: reader.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "vocab_size": len(reader),
                "intermediate_size": WIDTH,
                "num_hidden_layers": 2,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
                **HEADS,
            },
            vision_config={
                "depth": 1,
                "hidden_size": WIDTH,
                "intermediate_size": WIDTH,
                "num_heads": 2,
                "out_hidden_size": WIDTH,
                "fullatt_block_indexes": [0],
            },
            image_token_id=ids["image_pad"],
            video_token_id=ids["video_pad"],
            vision_start_token_id=marks["vision_start"],
            vision_end_token_id=marks["vision_end"],
        )
    )


def _flux_parts(*, guided: bool) -> dict[str, Any]:
    first, second = tokenizer(), t5_tokenizer()
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(**SHIFTED if guided else {"shift": 1.0}),
        "vae": vae(
            scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
        ),
        "text_encoder": text_encoder(first, width=WIDTH),
        "tokenizer": first,
        "text_encoder_2": t5_encoder(second),
        "tokenizer_2": second,
        "transformer": FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guided,
            axes_dims_rope=(4, 4, 8),
        ),
    }


def _flux2_klein() -> Flux2KleinPipeline:
    reader = _qwen_tokenizer()
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SHIFTED),
        vae=AutoencoderKLFlux2(
            block_out_channels=(8,) * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=128,
        ),
        text_encoder=_qwen3(Qwen3ForCausalLM, len(reader), layers=27),
        tokenizer=reader,
        transformer=Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        is_distilled=False,
    )


def _qwen_parts() -> dict[str, Any]:
    reader = _qwen_tokenizer()
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(**SHIFTED, shift_terminal=0.02),
        "vae": AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
        ),
        "text_encoder": _qwen_reader(reader),
        "tokenizer": reader,
        "transformer": QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        ),
    }


def _qwen_edit_parts() -> dict[str, Any]:
    parts = _qwen_parts()
    looks = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112)
    return parts | {"processor": PictureProcessor(looks, parts["tokenizer"])}


def _z_image() -> ZImagePipeline:
    reader = _qwen_tokenizer()
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_qwen3(Qwen3Model, len(reader), layers=2),
        tokenizer=reader,
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=WIDTH,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[8, 4, 4],
            axes_lens=[1024, 64, 64],
        ),
    )


def _chroma() -> ChromaPipeline:
    with warnings.catch_warnings():  # of its own import, in diffusers
        warnings.filterwarnings("ignore", message=".*FluxPosEmbed. is deprecated", category=FutureWarning)
        return _chroma_made()


def _chroma_made() -> ChromaPipeline:
    reader = t5_tokenizer()
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=t5_encoder(reader),
        tokenizer=reader,
        transformer=ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=8,
            approximator_hidden_dim=32,
            approximator_layers=1,
        ),
    )


def _sana() -> SanaPipeline:
    reader = _gemma_tokenizer()
    return SanaPipeline(
        tokenizer=reader,
        text_encoder=_gemma(len(reader)),
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock",) * 3 + ("EfficientViTBlock",),
            decoder_block_types=("ResBlock",) * 3 + ("EfficientViTBlock",),
            encoder_block_out_channels=(8, 8, 16, 16),
            decoder_block_out_channels=(8, 8, 16, 16),
            encoder_layers_per_block=(1,) * 4,
            decoder_layers_per_block=(1,) * 4,
            encoder_qkv_multiscales=((), (), (), (5,)),
            decoder_qkv_multiscales=((), (), (), (5,)),
            scaling_factor=0.41407,
        ),
        transformer=SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=WIDTH,
            sample_size=16,
        ),
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
    )


def _pixart() -> PixArtSigmaPipeline:
    reader = t5_tokenizer()
    return PixArtSigmaPipeline(
        tokenizer=reader,
        text_encoder=t5_encoder(reader),
        vae=vae(scaling_factor=0.13025),
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            cross_attention_dim=16,
            caption_channels=64,
            sample_size=32,  # of its tables of sizes, the one with the smallest
            use_additional_conditions=False,
        ),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02),
    )


def _lumina2() -> Lumina2Pipeline:
    reader = _gemma_tokenizer()
    return Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            sample_size=16,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(300, 64, 64),
            cap_feat_dim=WIDTH,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_gemma(len(reader)),
        tokenizer=reader,
    )


def _hidream() -> HiDreamImagePipeline:
    readers = tokenizer(), tokenizer(), t5_tokenizer(), _qwen_tokenizer()
    encoders = [
        *(text_encoder(reader, width=WIDTH, projected=True, positions=128) for reader in readers[:2]),
        t5_encoder(readers[2]),
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(readers[3]),
                intermediate_size=WIDTH,
                num_hidden_layers=2,
                attn_implementation="eager",  # its weights of attention are asked for
                **HEADS,
            )
        ),
    ]
    return HiDreamImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        *(part for pair in zip(encoders, readers, strict=True) for part in pair),
        HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_channels=[64, WIDTH],
            text_emb_dim=2 * WIDTH,
            axes_dims_rope=(8, 4, 4),
            max_resolution=(16, 16),
            llama_layers=[0, 1],
        ),
    )


BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "flux": lambda: FluxPipeline(**_flux_parts(guided=True)),
    "flux-schnell": lambda: FluxPipeline(**_flux_parts(guided=False)),
    "flux-kontext": lambda: FluxKontextPipeline(**_flux_parts(guided=True)),
    "flux2-klein": _flux2_klein,
    "qwen-image": lambda: QwenImagePipeline(**_qwen_parts()),
    "qwen-image-edit": lambda: QwenImageEditPipeline(**_qwen_edit_parts()),
    "qwen-image-edit-plus": lambda: QwenImageEditPlusPipeline(**_qwen_edit_parts()),
    "z-image": _z_image,
    "chroma": _chroma,
    "sana": _sana,
    "pixart": _pixart,
    "lumina2": _lumina2,
    "hidream": _hidream,
}
