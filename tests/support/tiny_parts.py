"""What tiny checkpoints of several families are made of."""

import functools
from typing import Any

from diffusers import AutoencoderKL
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from models_registry.builtin.vocabulary import BOS, COMMON_WORDS, EOS, build_vocabulary

# Learned from words, which takes a fifth of a second; many of them have one or two.
_vocabulary = functools.cache(build_vocabulary)


def tokenizer() -> CLIPTokenizer:
    vocabulary, merges = _vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def text_encoder(
    reader: CLIPTokenizer, *, width: int = 32, layers: int = 3, projected: bool = False, positions: int = 77
) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(reader),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=positions,
        hidden_act="quick_gelu",
        bos_token_id=reader.convert_tokens_to_ids(BOS),
        eos_token_id=reader.convert_tokens_to_ids(EOS),
        pad_token_id=reader.convert_tokens_to_ids(EOS),
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def t5_tokenizer() -> T5Tokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    pieces = ["\u2581", *letters, *(f"\u2581{word}" for word in dict.fromkeys(COMMON_WORDS))]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=special + [(piece, -2.0) for piece in pieces], extra_ids=0, model_max_length=256)


def t5_encoder(reader: T5Tokenizer, *, width: int = 64) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(reader),
            d_model=width,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            dense_act_fn="gelu",
        )
    )


def vae(*, channels: int = 4, **values: Any) -> AutoencoderKL:
    blocks = 4  # one latent cell covers 8x8 pixels, as in the real ones
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(8,) * blocks,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=128,
        **values,
    )
