"""LoRA files made by hand: sound ones in every way of naming, and hostile ones. No torch, no safetensors library."""

import functools
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

# A tensor: its type, its shape, and its bytes where they matter (else zeros).
Tensor = tuple[str, tuple[int, ...]] | tuple[str, tuple[int, ...], bytes]

BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I64": 8, "F8_E4M3": 1, "I8": 1}
TEXT_WIDTH = {"builtin": 160, "sd1": 768, "sd2": 1024, "sdxl": 2048}
INNER = 320


def assemble(header: bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this header, whatever it says; `length` is what it announces."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entries_of(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], bytes]:
    """The header's entries, and the bytes behind them."""
    entries: dict[str, Any] = {}
    data = bytearray()
    for name, (dtype, shape, *given) in tensors.items():
        size = BYTES[dtype] * int(np.prod(shape, dtype=np.int64))
        start = len(data)
        data += given[0] if given else bytes(size)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, len(data)]}
    return entries, bytes(data)


def safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> bytes:
    """A sound file with these tensors."""
    entries, data = entries_of(tensors)
    header = {"__metadata__": metadata} if metadata is not None else {}
    return assemble(json.dumps(header | entries).encode(), data)


@functools.cache
def random_weights(*shape: int, seed: int = 0) -> Tensor:
    """Small numbers in half precision, that depend on the seed."""
    values = np.random.default_rng(seed).normal(0, 0.01, shape).astype("<f2")
    return ("F16", shape, values.tobytes())


def pair(
    path: str, inputs: int, outputs: int, *, style: str = "peft", rank: int = 4, seed: int = 0
) -> dict[str, Tensor]:
    """Both halves of one adapted module."""
    down, up = {
        "peft": (".lora_A.weight", ".lora_B.weight"),
        "diffusers": (".lora.down.weight", ".lora.up.weight"),
        "processor": ("_lora.down.weight", "_lora.up.weight"),
        "linear": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
        "kohya": (".lora_down.weight", ".lora_up.weight"),
    }[style]
    return {
        path + down: random_weights(rank, inputs, seed=seed),
        path + up: random_weights(outputs, rank, seed=seed + 1),
    }


def scalar(value: float, dtype: str = "F16") -> Tensor:
    """One number, as kohya's alphas are."""
    data = {
        "F16": lambda: struct.pack("<e", value),
        "F32": lambda: struct.pack("<f", value),
        "BF16": lambda: struct.pack("<f", value)[2:],
        "I64": lambda: struct.pack("<q", int(value)),
    }[dtype]()
    return (dtype, (), data)


def unet_tensors(
    family: str = "sd1", style: str = "peft", *, rank: int = 4, seed: int = 0
) -> dict[str, Tensor]:
    """An adapter of one attention block of a U-Net."""
    width = TEXT_WIDTH[family]
    block = "down_blocks.1.attentions.0.transformer_blocks.0"
    modules = (("attn1.to_q", INNER), ("attn1.to_out.0", INNER), ("attn2.to_k", width), ("attn2.to_v", width))
    tensors: dict[str, Tensor] = {}
    for number, (module, inputs) in enumerate(modules):
        path = f"unet.{block}.{module}"
        if style == "kohya":
            path = f"lora_unet_{block}.{module}".replace(".", "_")
            tensors[f"{path}.alpha"] = scalar(rank / 2)
        elif style == "processor":
            path = (
                path.replace("attn1.", "attn1.processor.")
                .replace("attn2.", "attn2.processor.")
                .replace(".0.to", ".0_to")
            )
            path = path.removesuffix(".0")
        tensors |= pair(path, inputs, INNER, style=style, rank=rank, seed=seed + 10 * number)
    return tensors


def encoder_tensors(
    style: str = "peft", *, width: int = 768, number: int = 1, rank: int = 4
) -> dict[str, Tensor]:
    """An adapter of one layer of a text encoder; in kohya's naming, `number` 0 is the only one of its model."""
    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    if style == "kohya":
        prefix = f"lora_te{number or ''}_"
        path = prefix + layer.replace(".", "_")
    else:
        path = ("text_encoder_2." if number == 2 else "text_encoder.") + layer
    return pair(path, width, width, style="linear" if style == "diffusers" else style, rank=rank, seed=7)


def lora_bytes(family: str = "sd1", style: str = "peft", *, rank: int = 4, seed: int = 0) -> bytes:
    """A sound adapter."""
    return safetensors(unet_tensors(family, style, rank=rank, seed=seed))


def transformer_tensors(kind: str) -> dict[str, Tensor]:
    """An adapter of a Flux or SD3 transformer, in diffusers' or kohya's naming."""
    match kind:
        case "flux":
            block = "transformer.single_transformer_blocks.0.attn"
            return pair(f"{block}.to_q", 64, 64) | pair("transformer.transformer_blocks.0.attn.to_k", 64, 64)
        case "flux-double":
            return pair("transformer.transformer_blocks.0.attn.to_q", 3072, 64, rank=2)
        case "flux-kohya":
            return pair("lora_unet_double_blocks_0_img_attn_qkv", 64, 192, style="kohya") | {
                "lora_unet_double_blocks_0_img_attn_qkv.alpha": scalar(4)
            }
        case _:
            return pair("transformer.transformer_blocks.0.attn.to_q", 1536, 64, rank=2)


def whole_flux() -> dict[str, Tensor]:
    """A module for each of FLUX.1's blocks and its end, as fal's trainer names them."""
    parts = [f"{stream}_{part}" for stream in ("img", "txt") for part in ("attn.qkv", "attn.proj", "mlp.0")]
    parts += [f"{stream}_{part}" for stream in ("img", "txt") for part in ("mlp.2", "mod.lin")]
    modules = [f"double_blocks.{number}.{part}" for number in range(19) for part in parts]
    modules += [
        f"single_blocks.{number}.{part}"
        for number in range(38)
        for part in ("linear1", "linear2", "modulation.lin")
    ]
    tensors: dict[str, Tensor] = {}
    for module in (*modules, "final_layer.linear"):
        outputs = 21504 if module.endswith("linear1") else 96
        tensors |= pair(f"base_model.model.{module}", 64, outputs, rank=1)
    return tensors


def _with(extra: Mapping[str, Tensor], family: str = "sd1", style: str = "peft") -> bytes:
    return safetensors(unet_tensors(family, style) | extra)


def _config(config: Any) -> bytes:
    text = config if isinstance(config, str) else json.dumps(config)
    return safetensors(unet_tensors(), {"lora_adapter_metadata": text})


def _edited(**changes: Any) -> bytes:
    """A sound file whose first entry was changed."""
    entries, data = entries_of(unet_tensors())
    first = next(iter(entries))
    entries[first] |= changes
    return assemble(json.dumps(entries).encode(), data)


def _moved(shift: int) -> bytes:
    """A sound file whose second tensor lies elsewhere."""
    entries, data = entries_of(unet_tensors())
    second = list(entries)[1]
    entries[second]["data_offsets"] = [offset + shift for offset in entries[second]["data_offsets"]]
    return assemble(json.dumps(entries).encode(), data)


def _zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": [1.0]}))
    return buffer.getvalue()


def _unpaired(missing: str) -> bytes:
    tensors = unet_tensors()
    name = next(name for name in tensors if missing in name)
    return safetensors({other: tensor for other, tensor in tensors.items() if other != name})


PATH = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v"
KOHYA_PATH = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_v"
GOOD = lora_bytes()

# What each hostile or useless file is refused with: a pattern that its reason matches.
HOSTILE: dict[str, tuple[bytes, str]] = {
    # Not the format
    "one byte": (b"\x01", "too few"),
    "seven bytes": (b"\x08" + bytes(6), "too few"),
    "zeros": (bytes(1000), "announces a header of 0 bytes"),
    "header of 2 GB": (assemble(b"{}", length=2**31), "announces a header of 2147483648 bytes"),
    "header of 2^64": (assemble(b"{}", length=2**64 - 1), "announces a header"),
    "header one byte too long": (assemble(b"{}", length=3), "announces a header of 3 bytes"),
    "header of 9 MB": (assemble(b'{"a":"' + b"a" * 9 * 1024 * 1024 + b'"}'), "are the limit"),
    "pickle": (pickle.dumps({"weight": [1.0] * 100}, protocol=4), "pickle"),
    "pickle protocol 2": (pickle.dumps({"weight": [1.0] * 100}, protocol=2), "pickle"),
    "zip (torch.save)": (_zipped(), "ZIP archive"),
    "web page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
    "web page after blanks": (b"\n\n  <html><body>429</body></html>", "web page"),
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "Git LFS pointer",
    ),
    "JSON": (b'{"error": "Repository not found"}', "JSON without the length"),
    "GGUF": (b"GGUF" + bytes(100), "GGUF"),
    "NumPy": (b"\x93NUMPY\x01\x00" + bytes(100), "NumPy"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "gzip"),
    "program": (b"\x7fELF" + bytes(100), "program"),
    "random bytes": (
        bytes(np.random.default_rng(1).integers(0, 256, 4096, dtype=np.uint8)),
        "announces a header",
    ),
    # A header that lies
    "header not an object": (assemble(b"[1, 2, 3]"), "not a JSON object"),
    "header not JSON": (assemble(b'{"a": }'), "not valid JSON"),
    "header not UTF-8": (assemble(b'{"\xff\xfe": {}}'), "not UTF-8"),
    "two objects": (assemble(b"{} {}"), "not valid JSON"),
    "nested too deeply": (
        assemble(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
        "nested too deeply|too many",
    ),
    "millions of lists": (assemble(b'{"a":[' + b"[]," * 2_000_000 + b"[]]}"), "too many entries"),
    "millions of texts": (assemble(b'{"a":[' + b'"",' * 2_000_000 + b'""]}'), "too many entries"),
    "texts without an end": (assemble(b"{" + b'"\\' * 2_000_000 + b"}"), "too many entries|not valid JSON"),
    "wide characters": (assemble(('{"a":"' + "a" * 6_000_000 + '\U0001f600"}').encode()), "too much memory"),
    "name twice": (
        assemble(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{}}'),
        "names 'a' twice",
    ),
    "NaN in the header": (assemble(b'{"a":NaN}'), "NaN"),
    "fraction in a shape": (_edited(shape=[4.0, 320]), "4.0"),
    "number of 5,000 digits": (assemble(b'{"a":' + b"9" * 5000 + b"}"), "impossible number"),
    "negative offset": (_edited(data_offsets=[-4, 2556]), "impossible number"),
    "true in a shape": (_edited(shape=[True, 320]), "not a list"),
    "shape no list": (_edited(shape="4x320"), "not a list"),
    "nine dimensions": (_edited(shape=[1] * 9), "not a list"),
    "one offset": (_edited(data_offsets=[0]), "not a start and an end"),
    "offsets backwards": (_edited(data_offsets=[2560, 0]), "not a start and an end"),
    "shape that overflows": (_edited(shape=[2**32, 2**32, 2**32, 2**32]), "where its shape needs"),
    "shape too large": (_edited(shape=[4, 321]), "where its shape needs"),
    "unknown type": (_edited(dtype="F42"), "unknown dtype"),
    "type no text": (_edited(dtype=16), "unknown dtype"),
    "entry without a shape": (assemble(b'{"a":{"dtype":"F32","data_offsets":[0,0]}}'), "not exactly"),
    "entry with more": (_edited(extra=1), "not exactly"),
    "entry no object": (assemble(b'{"a":7}'), "not exactly"),
    "overlap": (_moved(-2), "overlaps"),
    "gap": (_moved(2), "gap|overlaps"),
    "truncated": (GOOD[:-1], "truncated"),
    "bytes behind": (GOOD + b"#!/bin/sh", "9 bytes behind"),
    "metadata no texts": (safetensors(unet_tensors(), {"a": 1}), "metadata"),
    "metadata a list": (assemble(b'{"__metadata__":["a"]}'), "metadata"),
    # Sound, and no LoRA that can be used
    "no tensors": (safetensors({}), "no LoRA weights"),
    "only metadata": (safetensors({}, {"format": "pt"}), "no LoRA weights"),
    "UNet weights": (safetensors({"down_blocks.0.conv.weight": ("F16", (4, 4, 3, 3))}), "no LoRA weight"),
    "whole checkpoint": (
        safetensors({"model.diffusion_model.out.0.weight": ("F16", (4,))}),
        "whole checkpoint",
    ),
    "textual inversion": (safetensors({"emb_params": ("F32", (4, 768))}), "textual inversion"),
    "LoHa": (safetensors({f"{KOHYA_PATH}.hada_w1_a": ("F16", (4, 4))}), "LoHa"),
    "LoKr": (safetensors({f"{KOHYA_PATH}.lokr_w1": ("F16", (4, 4))}), "LoKr"),
    "OFT": (safetensors({f"{KOHYA_PATH}.oft_blocks": ("F16", (4, 4))}), "OFT"),
    "DoRA (kohya)": (_with({f"{KOHYA_PATH}.dora_scale": ("F16", (1, 4))}, style="kohya"), "DoRA"),
    "DoRA (peft)": (_with({f"{PATH}.lora_magnitude_vector.weight": ("F16", (4,))}), "DoRA"),
    "Tucker": (_with({f"{KOHYA_PATH}.lora_mid.weight": ("F16", (4, 4, 3, 3))}, style="kohya"), "Tucker"),
    "differences": (safetensors({f"{KOHYA_PATH}.diff": ("F16", (4, 4))}), "whole weight differences"),
    "ControlNet": (safetensors({"control_model.input.weight": ("F16", (4, 4))}), "ControlNet"),
    "raw PEFT": (safetensors(pair("base_model.model.unet.to_q", 4, 4)), "raw PEFT"),
    "SD3 by kohya": (
        safetensors(pair("lora_unet_joint_blocks_0_x", 4, 4, style="kohya")),
        "SD3 LoRA in kohya",
    ),
    "no prefix": (safetensors(pair("mid_block.attentions.0.attn2.to_k", 768, 4)), "does not begin with"),
    "strange key": (_with({"unet.lora.strange": ("F16", (4, 4))}), "no known way of naming"),
    "key that is a pattern": (_with(pair("unet.(a+)+$", 4, 4)), "no known way of naming"),
    "key with a NUL": (_with(pair("unet.a\x00b", 4, 4)), "no known way of naming"),
    "key with a surrogate": (_with({"\ud800": ("F16", (4, 4))}), "no LoRA weight"),
    "bias": (_with({f"{PATH}.lora_B.bias": ("F16", (4,))}), "no known way of naming"),
    "no up": (_unpaired("lora_B"), "lacks its up"),
    "no down": (_unpaired("lora_A"), "lacks its down"),
    "alpha alone": (_with({f"{KOHYA_PATH}.alpha": scalar(4)}, style="kohya"), "lacks its down and up"),
    "kohya and diffusers": (_with(unet_tensors(style="kohya")), "mixes kohya"),
    "old and new": (_with(pair(PATH, 4, 4, style="diffusers")), "mixes diffusers"),
    "one module twice": (
        _with(pair("unet.a.to_q", 4, 4, style="diffusers") | pair("unet.a.to_q", 4, 4, style="linear")),
        "twice|two ways",
    ),
    "rank 0": (_with(pair(PATH, 4, 4, rank=0)), "rank 0"),
    "rank 1025": (_with(pair(PATH, 4, 4, rank=1025)), "rank 1025"),
    "two ranks": (
        _with({f"{PATH}.lora_A.weight": ("F16", (4, 8)), f"{PATH}.lora_B.weight": ("F16", (8, 5))}),
        "two ranks",
    ),
    "one dimension": (
        _with({f"{PATH}.lora_A.weight": ("F16", (4,)), f"{PATH}.lora_B.weight": ("F16", (4,))}),
        "dimensions",
    ),
    "no width": (
        _with({f"{PATH}.lora_A.weight": ("F16", (4, 0)), f"{PATH}.lora_B.weight": ("F16", (8, 4))}),
        "impossible shapes",
    ),
    "wide second kernel": (
        _with(
            {f"{PATH}.lora_A.weight": ("F16", (4, 8, 3, 3)), f"{PATH}.lora_B.weight": ("F16", (8, 4, 3, 3))}
        ),
        "impossible shapes",
    ),
    "8-bit weights": (
        _with({f"{PATH}.lora_A.weight": ("F8_E4M3", (4, 8)), f"{PATH}.lora_B.weight": ("F8_E4M3", (8, 4))}),
        "F8_E4M3",
    ),
    "alpha a matrix": (
        _with(
            pair(KOHYA_PATH, 4, 4, style="kohya") | {f"{KOHYA_PATH}.alpha": ("F16", (2, 2))}, style="kohya"
        ),
        "not one number",
    ),
    "alpha NaN": (
        _with(
            pair(KOHYA_PATH, 4, 4, style="kohya") | {f"{KOHYA_PATH}.alpha": scalar(float("nan"))},
            style="kohya",
        ),
        "not finite",
    ),
    "alpha beside diffusers' names": (
        safetensors(
            pair("transformer.transformer_blocks.0.attn.to_q", 1536, 4)
            | {"transformer.transformer_blocks.0.attn.to_q.alpha": scalar(4)}
        ),
        "alphas beside",
    ),
    # What peft would take gigabytes and minutes for
    "name of 100,000 characters": (
        _with(pair(f"unet.{'a' * 100_000}.to_q", 4, 4)),
        "a longer name than any module has",
    ),
    "name of 129 characters": (_with(pair(f"unet.{'a' * 110}", 4, 4)), "a longer name than any module has"),
    "kohya name of 100,000 characters": (
        _with(pair(f"lora_unet_{'a' * 100_000}", 4, 4, style="kohya"), style="kohya"),
        "a longer name than any module has",
    ),
    "name of 50 dots": (_with(pair(f"unet.{'a.' * 50}to_q", 4, 4)), "a longer name than any module has"),
    "3,000 modules": (
        _with({key: value for n in range(3000) for key, value in pair(f"unet.a.{n}.to_q", 4, 4).items()}),
        "adapts 3004 modules of a unet; sd1 has 300 at most",
    ),
    "300 modules of an encoder": (
        _with({key: value for n in range(300) for key, value in pair(f"text_encoder.{n}.x", 4, 4).items()}),
        "adapts 300 modules of a text_encoder; sd1 has 80",
    ),
    "configuration with many patterns": (
        _config({"unet.rank_pattern": {f"a{number}": 4 for number in range(5)}}),
        "names 5 modules, and it adapts 4",
    ),
    "configuration with many targets": (
        _config({"unet.target_modules": [f"a{number}" for number in range(10_000)]}),
        "names 10000 modules, and it adapts 4",
    ),
    # No family, or several
    "no family": (safetensors(pair(PATH, 320, 320)), "nothing in it tells"),
    "strange width": (safetensors(pair("unet.a.attn2.to_k", 4096, 4)), "width 4096"),
    "two families": (
        safetensors(pair("unet.a.attn2.to_k", 768, 4) | pair("unet.b.attn2.to_k", 2048, 4)),
        "different families: sd1, sdxl",
    ),
    "second encoder on SD1": (_with(encoder_tensors(number=2, width=1280)), "no second text encoder"),
    "encoder of another family": (_with(encoder_tensors(width=1024)), "do not fit sd1"),
    "U-Net and transformer": (_with(transformer_tensors("flux")), "U-Net and for a transformer"),
    "other transformer": (
        safetensors(pair("transformer.token_refiner.0.attn.to_q", 3072, 4)),
        "transformer that is not supported",
    ),
    "encoder alone": (safetensors(encoder_tensors()), "nothing in it tells"),
    # A configuration for peft that asks for more than weights
    "configuration not JSON": (_config("{"), "not valid JSON"),
    "configuration a list": (_config([1]), "not a JSON object"),
    "configuration too large": (_config('"' + "a" * 600_000 + '"'), "too large"),
    "configuration with DoRA": (_config({"unet.use_dora": True}), "use_dora"),
    "configuration with a pattern": (_config({"unet.target_modules": "(a+)+$"}), "target_modules"),
    "configuration with names that are patterns": (
        _config({"unet.rank_pattern": {"(a+)+$": 4}}),
        "rank_pattern",
    ),
    "configuration with a huge rank": (_config({"unet.r": 10**9}), "'r'"),
    "configuration with an endless alpha": (_config({"unet.lora_alpha": 10**400}), "lora_alpha"),
    "configuration with a start of its own": (
        _config({"unet.init_lora_weights": "pissa"}),
        "init_lora_weights",
    ),
    "configuration with a module to load": (_config({"unet.auto_mapping": {"a": "b"}}), "auto_mapping"),
}
