"""A checkpoint of CTranslate2 becomes one of Hugging Face: the small one there and back, and a real one."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from tests.checkpoints.convert import ALIASES, SETTINGS, UnknownFormError, convert, read_model, tensors
from tests.engine.backends.vllm.real_vllm import LIMIT_S, find_vllm
from tests.places import ROOT
from tests.requirements import need_weights

NANO = ROOT / "tests/checkpoints/nano/hf"
HEADS = 2
TYPES = {"float16": 4, "float32": 0, "int8": 1, "int16": 2}

Arrays = dict[str, npt.NDArray[Any]]


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def written(variables: Arrays, *, version: int = 6, spec: str = "WhisperSpec") -> bytes:
    """A model.bin, as CTranslate2's own `ModelSpec` writes one."""
    parts = [struct.pack("<I", version), string(spec), struct.pack("<II", 3, len(variables))]
    for name, value in sorted(variables.items()):
        parts += [string(name), struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)]
        parts += [struct.pack("<BI", TYPES[value.dtype.name], value.nbytes), value.tobytes()]
    parts.append(struct.pack("<I", len(ALIASES)))
    return b"".join([*parts, *(string(alias) + string(name) for alias, name in ALIASES.items())])


def stacked() -> Arrays:
    """The small checkpoint's weights as CTranslate2 has them, spelled anew here."""
    hf = load_file(NANO / "model.safetensors")
    found: Arrays = {
        name: np.array(value, np.int8 if value in (0, 1, 3) else np.int16) for name, value in SETTINGS.items()
    }

    def linear(source: str, target: str) -> None:
        for part in ("weight", "bias"):
            found[f"{target}/{part}"] = hf[f"{source}.{part}"]

    def norm(source: str, target: str) -> None:
        found[f"{target}/gamma"], found[f"{target}/beta"] = hf[f"{source}.weight"], hf[f"{source}.bias"]

    def attention(source: str, target: str, projections: str) -> None:
        no_bias = np.zeros(len(hf[f"{source}.q_proj.bias"]), np.float16)
        found[f"{target}/weight"] = np.concatenate([hf[f"{source}.{one}_proj.weight"] for one in projections])
        found[f"{target}/bias"] = np.concatenate([hf.get(f"{source}.{one}_proj.bias", no_bias) for one in projections])

    for side in ("encoder", "decoder"):
        found[f"{side}/num_heads"] = np.array(HEADS, np.int16)
        found[f"{side}/position_encodings/encodings"] = hf[f"model.{side}.embed_positions.weight"]
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        layers = {name.split(".")[3] for name in hf if name.startswith(f"model.{side}.layers.")}
        for layer in layers:
            source, target = f"model.{side}.layers.{layer}", f"{side}/layer_{layer}"
            norm(f"{source}.self_attn_layer_norm", f"{target}/self_attention/layer_norm")
            attention(f"{source}.self_attn", f"{target}/self_attention/linear_0", "qkv")
            linear(f"{source}.self_attn.out_proj", f"{target}/self_attention/linear_1")
            norm(f"{source}.final_layer_norm", f"{target}/ffn/layer_norm")
            linear(f"{source}.fc1", f"{target}/ffn/linear_0")
            linear(f"{source}.fc2", f"{target}/ffn/linear_1")
            if side == "decoder":
                norm(f"{source}.encoder_attn_layer_norm", f"{target}/attention/layer_norm")
                linear(f"{source}.encoder_attn.q_proj", f"{target}/attention/linear_0")
                attention(f"{source}.encoder_attn", f"{target}/attention/linear_1", "kv")
                linear(f"{source}.encoder_attn.out_proj", f"{target}/attention/linear_2")
    linear("model.encoder.conv1", "encoder/conv1")
    linear("model.encoder.conv2", "encoder/conv2")
    found["decoder/embeddings/weight"] = hf["model.decoder.embed_tokens.weight"]
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The small checkpoint in CTranslate2's form, float16, its tokenizer without timestamps as real ones come."""
    path = tmp_path / "ct2"
    path.mkdir()
    (path / "model.bin").write_bytes(written(stacked()))
    generation = json.loads((NANO / "generation_config.json").read_text())
    config = {
        "alignment_heads": generation["alignment_heads"],
        "suppress_ids": generation["suppress_tokens"],
        "suppress_ids_begin": generation["begin_suppress_tokens"],
    }
    (path / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((NANO / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["special"]]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return path


def test_every_weight_comes_back_bit_by_bit(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "hf")
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "hf", NANO))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_the_rest_of_a_checkpoint_comes_back_too(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "hf")

    def both(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        ours, theirs = (json.loads((path / name).read_text("utf-8")) for path in (tmp_path / "hf", NANO))
        return ours, theirs

    assert {path.name for path in (tmp_path / "hf").iterdir()} == {
        *("model.safetensors", "config.json", "generation_config.json", "preprocessor_config.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    ours, theirs = both("config.json")
    assert {name: value for name, value in ours.items() if name in theirs} == {
        name: theirs[name] for name in ours if name in theirs
    }
    assert len(ours.keys() & theirs.keys()) > 20
    ours, theirs = both("generation_config.json")
    assert ours == theirs
    ours, theirs = both("tokenizer.json")
    assert ours["added_tokens"] == theirs["added_tokens"]
    assert ours["model"] == theirs["model"]


def _without(name: str) -> Callable[[Arrays], None]:
    def change(variables: Arrays) -> None:
        del variables[name]

    return change


def _with(name: str, value: npt.NDArray[Any]) -> Callable[[Arrays], None]:
    return lambda variables: variables.update({name: value})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without("decoder/layer_1/ffn/linear_0/bias"), "decoder/layer_1/ffn/linear_0/bias is missing"),
        (_without("encoder/num_heads"), "encoder/num_heads is missing"),
        (_with("decoder/layer_9/ffn/linear_9/bias", np.zeros(1, np.float16)), "is missing"),
        (_with("decoder/gate", np.zeros(1, np.float16)), "decoder/gate is no part of a Whisper"),
        (_with("decoder/activation", np.array(1, np.int8)), "decoder/activation is not 3"),
        (_with("encoder/conv1/bias", np.zeros(128, np.int8)), "not float16"),
        (_with("encoder/conv1/bias", np.zeros(128, np.float32)), "not float16"),
        (
            _with("encoder/layer_0/self_attention/linear_0/bias", np.ones(384, np.float16)),
            "a bias that Whisper has not",
        ),
    ],
)
def test_what_is_no_whisper_in_float16_is_refused(change: Callable[[Arrays], None], reason: str) -> None:
    variables = stacked()
    change(variables)
    with pytest.raises(UnknownFormError, match=reason):
        tensors(variables)


@pytest.mark.parametrize("options", [{"version": 5}, {"spec": "TransformerSpec"}])
def test_another_form_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "model.bin").write_bytes(written({}, **options))
    with pytest.raises(UnknownFormError, match=r"no Whisper of version 6"):
        read_model(tmp_path / "model.bin")


@pytest.mark.parametrize("length", [0, 3, 5, 17, 20, 30, 40, 500, -1, 1])
def test_a_file_that_is_too_short_or_too_long_is_refused(tmp_path: Path, length: int) -> None:
    whole = written({"decoder/activation": np.array(3, np.int8), "decoder/x": np.zeros((3, 128), np.float16)})
    (tmp_path / "model.bin").write_bytes(whole + b"\0" if length == 1 else whole[:length])
    with pytest.raises(UnknownFormError):
        read_model(tmp_path / "model.bin")


def test_timestamps_are_not_added_twice_and_a_failure_leaves_nothing(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").write_bytes((NANO / "tokenizer.json").read_bytes())
    with pytest.raises(UnknownFormError, match="timestamps already"):
        convert(source, tmp_path / "made" / "hf")
    assert not (tmp_path / "made").exists()


# --- a real one

AGREEMENT = """
import json, sys
import ctranslate2, numpy as np, torch, transformers

ct2, hf = sys.argv[1:]
served = transformers.WhisperForConditionalGeneration.from_pretrained(hf, dtype=torch.float32)
tokenizer = transformers.WhisperProcessor.from_pretrained(hf).tokenizer
reference = ctranslate2.models.Whisper(ct2, compute_type="float32")
features = (torch.randn(1, served.config.num_mel_bins, 3000, generator=torch.Generator().manual_seed(0)) * 0.3)
view = ctranslate2.StorageView.from_array(features.numpy())
with torch.no_grad():
    ours, theirs = served.model.encoder(features).last_hidden_state.numpy(), np.asarray(reference.encode(view))
    prompt = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"])
    greedy = reference.generate(view, [prompt], beam_size=1, suppress_tokens=[], suppress_blank=False)
    written = greedy[0].sequences_ids[0]
    logits = served(input_features=features, decoder_input_ids=torch.tensor([prompt + written])).logits[0]
print(json.dumps({
    "encoder": float(np.sqrt(((ours - theirs) ** 2).mean() / (theirs ** 2).mean())),
    "same": logits[len(prompt) - 1 : -1].argmax(1).tolist() == written,
    "written": len(written),
    "timestamps": tokenizer.convert_tokens_to_ids(["<|0.00|>", "<|30.00|>"]),
    "text": tokenizer.decode(tokenizer.encode("Fellow Americans", add_special_tokens=False)),
}))
"""
"""Run where vLLM is installed: torch and transformers are there."""


@pytest.mark.slow
def test_a_real_checkpoint_computes_the_same_in_both_forms(tmp_path: Path) -> None:
    source = need_weights("whisper-base")
    convert(source, tmp_path / "hf")
    command = [
        str(find_vllm().with_name("python")),
        "-P",
        "-s",
        "-B",
        "-c",
        AGREEMENT,
        str(source),
        str(tmp_path / "hf"),
    ]
    environment = {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, check=False, timeout=LIMIT_S, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["encoder"] < 1e-5
    assert found["same"]
    assert found["written"] > 0
    assert found["timestamps"] == [50364, 51864]
    assert found["text"] == "Fellow Americans"


@pytest.mark.parametrize(("name", "count"), [("whisper-base", 245), ("tiny.en", 167)])
def test_real_checkpoints_are_read_whole(name: str, count: int) -> None:
    assert len(tensors(read_model(need_weights(name) / "model.bin"))) == count
