"""How does a Whisper that CTranslate2 serves become one that vLLM serves?

    python convert.py ../../.weights/whisper-base ../../.weights/whisper-base-hf

The reverse of `export.py`, for real weights: those that `make weights` fetches come in CTranslate2's form alone. The
weights are copied bit by bit; everything else in a Hugging Face checkpoint follows from their shapes, from `config.json`
and from `tokenizer.json`, which lacks only the timestamps. What is not known here is refused, not guessed.

    model.bin, version 6     little endian; a string is its length with a final 0 (uint16), the bytes, 0
    uint32 6, string "WhisperSpec", uint32 revision
    uint32 count, then for each variable:
        string name, uint8 rank, rank x uint32 dimension, uint8 type, uint32 bytes, the bytes
    uint32 count, then for each alias: string name, string of what

CTranslate2 stacks the projections of attention: query, key and value in one matrix, or key and value in one where they
come from the encoder. The key's has no bias in Whisper, and zeros here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

VERSION = 6
FLOAT16 = 4
TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", FLOAT16: "<f2"}

SETTINGS = {
    "decoder/activation": 3,  # GELU, not its approximation
    "decoder/alibi": 0,
    "decoder/alignment_heads": 1,
    "decoder/alignment_layer": -1,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
"""What every Whisper says of itself, besides its number of heads."""

ALIASES = {"decoder/projection/weight": "decoder/embeddings/weight"}

SECONDS_PER_TIMESTAMP = 0.02
TIMESTAMPS = 1501

Arrays = dict[str, npt.NDArray[Any]]


class UnknownFormError(Exception):
    """This is no Whisper in float16 as CTranslate2 wrote it in version 6."""


# --- reading


def read_model(path: Path) -> Arrays:
    """The variables of a model.bin. Raises UnknownFormError."""
    data = BytesIO(path.read_bytes())
    try:
        if _number(data, "I") != VERSION or _string(data) != "WhisperSpec":
            raise UnknownFormError(f"{path.name} is no Whisper of version {VERSION}")
        _number(data, "I")
        variables = dict(_variable(data) for _ in range(_number(data, "I")))
        aliases = {_string(data): _string(data) for _ in range(_number(data, "I"))}
    except (struct.error, KeyError, ValueError) as exc:
        raise UnknownFormError(f"{path.name} cannot be read") from exc
    if aliases != ALIASES or data.read(1):
        raise UnknownFormError(f"{path.name} holds more than a Whisper")
    return variables


def _number(data: BytesIO, form: str) -> int:
    size = struct.calcsize(f"<{form}")
    return int(struct.unpack(f"<{form}", data.read(size))[0])


def _string(data: BytesIO) -> str:
    return data.read(_number(data, "H"))[:-1].decode()


def _variable(data: BytesIO) -> tuple[str, npt.NDArray[Any]]:
    name = _string(data)
    shape = [_number(data, "I") for _ in range(_number(data, "B"))]
    form = TYPES[_number(data, "B")]
    content = data.read(_number(data, "I"))
    return name, np.frombuffer(content, form).reshape(shape)


# --- the weights


def tensors(variables: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """The weights under the names of Hugging Face. Raises UnknownFormError."""
    left = dict(variables)
    found: Arrays = {}
    try:
        for name, value in SETTINGS.items():
            if int(left.pop(name)) != value:
                raise UnknownFormError(f"{name} is not {value}")
        for side in ("encoder", "decoder"):
            del left[f"{side}/num_heads"]
            found |= _side(left, side)
    except KeyError as exc:
        raise UnknownFormError(f"{exc.args[0]} is missing") from exc
    if left:
        raise UnknownFormError(f"{min(left)} is no part of a Whisper")
    if any(value.dtype != np.float16 for value in found.values()):
        raise UnknownFormError("the weights are not float16")
    return found


def _side(left: Arrays, side: str) -> Arrays:
    """The encoder or the decoder."""
    whole = f"model.{side}"
    found = {f"{whole}.embed_positions.weight": left.pop(f"{side}/position_encodings/encodings")}
    found |= _norm(left, f"{side}/layer_norm", f"{whole}.layer_norm")
    if side == "encoder":
        found |= _linear(left, "encoder/conv1", f"{whole}.conv1") | _linear(left, "encoder/conv2", f"{whole}.conv2")
    else:
        found[f"{whole}.embed_tokens.weight"] = left.pop("decoder/embeddings/weight")
    for layer in range(_layers(left, side)):
        found |= _layer(left, f"{side}/layer_{layer}", f"{whole}.layers.{layer}", crosses=side == "decoder")
    return found


def _layers(variables: Mapping[str, Any], side: str) -> int:
    return len({name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_") and name.count("/") > 2})


def _layer(left: Arrays, source: str, target: str, *, crosses: bool) -> Arrays:
    found = _norm(left, f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm")
    found |= _stacked(left, f"{source}/self_attention/linear_0", f"{target}.self_attn", "qkv")
    found |= _linear(left, f"{source}/self_attention/linear_1", f"{target}.self_attn.out_proj")
    if crosses:
        found |= _norm(left, f"{source}/attention/layer_norm", f"{target}.encoder_attn_layer_norm")
        found |= _linear(left, f"{source}/attention/linear_0", f"{target}.encoder_attn.q_proj")
        found |= _stacked(left, f"{source}/attention/linear_1", f"{target}.encoder_attn", "kv")
        found |= _linear(left, f"{source}/attention/linear_2", f"{target}.encoder_attn.out_proj")
    found |= _norm(left, f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
    found |= _linear(left, f"{source}/ffn/linear_0", f"{target}.fc1")
    return found | _linear(left, f"{source}/ffn/linear_1", f"{target}.fc2")


def _norm(left: Arrays, source: str, target: str) -> Arrays:
    return {f"{target}.weight": left.pop(f"{source}/gamma"), f"{target}.bias": left.pop(f"{source}/beta")}


def _linear(left: Arrays, source: str, target: str) -> Arrays:
    return {f"{target}.{part}": left.pop(f"{source}/{part}") for part in ("weight", "bias")}


def _stacked(left: Arrays, source: str, target: str, projections: str) -> Arrays:
    found: Arrays = {}
    for part in ("weight", "bias"):
        for name, value in zip(projections, np.split(left.pop(f"{source}/{part}"), len(projections)), strict=True):
            found[f"{target}.{name}_proj.{part}"] = value
    if found.pop(f"{target}.k_proj.bias").any():
        raise UnknownFormError(f"{source} has a bias that Whisper has not")
    return found


# --- what else belongs to a checkpoint


def model_config(
    weights: Mapping[str, npt.NDArray[Any]], heads: int, special: Special, ct2: Mapping[str, Any]
) -> dict[str, Any]:
    """Return config.json."""
    vocabulary, width = weights["model.decoder.embed_tokens.weight"].shape
    sides: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_layers"] = sum(
            name.startswith(f"model.{side}.layers.") and name.endswith(".fc1.weight") for name in weights
        )
        sides[f"{side}_attention_heads"] = heads
        sides[f"{side}_ffn_dim"] = len(weights[f"model.{side}.layers.0.fc1.weight"])
        sides[f"{side}_layerdrop"] = 0.0
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "torch_dtype": "float16",
        "vocab_size": vocabulary,
        "d_model": width,
        "num_mel_bins": weights["model.encoder.conv1.weight"].shape[1],
        "num_hidden_layers": sides["encoder_layers"],
        **sides,
        "max_source_positions": len(weights["model.encoder.embed_positions.weight"]),
        "max_target_positions": len(weights["model.decoder.embed_positions.weight"]),
        "activation_function": "gelu",
        "is_encoder_decoder": True,
        "scale_embedding": False,
        "use_cache": True,
        "bos_token_id": special["endoftext"],
        "eos_token_id": special["endoftext"],
        "pad_token_id": special["endoftext"],
        "decoder_start_token_id": special["startoftranscript"],
        "suppress_tokens": ct2["suppress_ids"],
        "begin_suppress_tokens": ct2["suppress_ids_begin"],
    }


class Special(dict[str, int]):
    """The numbers of special tokens by their names, without the signs around them."""

    @classmethod
    def of(cls, tokenizer: Mapping[str, Any]) -> Special:
        return cls({token["content"].strip("<|>"): token["id"] for token in tokenizer["added_tokens"]})

    @property
    def languages(self) -> dict[str, int]:
        """In every Whisper they stand between the start and the tasks."""
        first, last = self["startoftranscript"], self["translate"]
        return {f"<|{name}|>": number for name, number in self.items() if first < number < last}


def generation_config(special: Special, ct2: Mapping[str, Any], *, multilingual: bool) -> dict[str, Any]:
    """Return generation_config.json."""
    return {
        "alignment_heads": ct2["alignment_heads"],
        "begin_suppress_tokens": ct2["suppress_ids_begin"],
        "bos_token_id": special["endoftext"],
        "decoder_start_token_id": special["startoftranscript"],
        "eos_token_id": special["endoftext"],
        "is_multilingual": multilingual,
        **(
            {
                "lang_to_id": special.languages,
                "task_to_id": {task: special[task] for task in ("transcribe", "translate")},
            }
            if multilingual
            else {}
        ),
        "max_initial_timestamp_index": 50,
        "max_length": 448,
        "no_timestamps_token_id": special["notimestamps"],
        "pad_token_id": special["endoftext"],
        "prev_sot_token_id": special["startofprev"],
        "return_timestamps": False,
        "suppress_tokens": ct2["suppress_ids"],
    }


def add_timestamps(tokenizer: dict[str, Any]) -> None:
    """Name the tokens behind `<|notimestamps|>`, which are not special: they are part of what the model writes."""
    first = Special.of(tokenizer)["notimestamps"] + 1
    if any(token["id"] >= first for token in tokenizer["added_tokens"]):
        raise UnknownFormError("the tokenizer has timestamps already")
    common = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tokenizer["added_tokens"] += [
        {"id": first + number, "content": f"<|{number * SECONDS_PER_TIMESTAMP:.2f}|>", **common}
        for number in range(TIMESTAMPS)
    ]


TOKENIZER_CONFIG = {
    "add_prefix_space": False,
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "model_max_length": 1024,
    "pad_token": "<|endoftext|>",
    "tokenizer_class": "WhisperTokenizer",
    "unk_token": "<|endoftext|>",
}


def preprocessor_config(mels: int) -> dict[str, Any]:
    """Return preprocessor_config.json: how Whisper's spectrograms are made."""
    return {
        "chunk_length": 30,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": mels,
        "hop_length": 160,
        "n_fft": 400,
        "n_samples": 480_000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "WhisperProcessor",
        "return_attention_mask": False,
        "sampling_rate": 16_000,
    }


# --- the whole


def convert(source: Path, target: Path) -> None:
    """Write the checkpoint in `source` to the new directory `target`, whole or not at all. Raises UnknownFormError."""
    variables = read_model(source / "model.bin")
    weights, heads = tensors(variables), int(variables["encoder/num_heads"])
    tokenizer = json.loads((source / "tokenizer.json").read_text("utf-8"))
    ct2 = json.loads((source / "config.json").read_text("utf-8"))
    special, multilingual = Special.of(tokenizer), "" in tokenizer["model"]["vocab"]
    add_timestamps(tokenizer)
    config = model_config(weights, heads, special, ct2)
    files = {
        "config": config,
        "generation_config": generation_config(special, ct2, multilingual=multilingual),
        "preprocessor_config": preprocessor_config(config["num_mel_bins"]),
        "tokenizer": tokenizer,
        "tokenizer_config": TOKENIZER_CONFIG,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        made.chmod(0o755)
        save_file(
            {name: np.ascontiguousarray(value) for name, value in weights.items()},
            made / "model.safetensors",
            {"format": "pt"},
        )
        (made / "model.safetensors").chmod(0o644)
        for name, content in files.items():
            (made / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
        made.rename(target)
    except BaseException:
        shutil.rmtree(made)
        raise


def main() -> None:
    """Convert one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    convert(options.source, options.target)


if __name__ == "__main__":
    main()
