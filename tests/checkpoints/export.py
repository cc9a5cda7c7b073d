"""How does a training run become the two folders that are served?

    python export.py RUN CORPUS nano

Writes nano/hf (transformers, fp16) and nano/ct2 (CTranslate2, int8), each file whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch
import transformers
from alignment import head_errors
from batches import FRAME_CLASSES
from ctranslate2.converters import TransformersConverter
from network import (
    DECODER_LAYERS, ENCODER_LAYERS, FEED_FORWARD, HEADS, MELS, SOURCE_POSITIONS, TARGET_POSITIONS, WIDTH, Nano,
)  # fmt: skip
from safetensors.torch import save_file
from synthesise import read_corpus
from vocabulary import (
    LANGUAGE_CODES, byte_symbols, merges, special_id, special_tokens, text_tokens, timestamp_tokens, vocabulary_size,
)  # fmt: skip

COPIED = ("tokenizer.json", "preprocessor_config.json")
TOLERATED_S = 0.01
"""Heads this much worse than the best still count as alignment heads."""


def config() -> dict[str, object]:
    """Return config.json, with nothing in it that an ordinary Whisper has not."""
    end = special_id("endoftext")
    settings = transformers.WhisperConfig(
        vocab_size=vocabulary_size(), num_mel_bins=MELS, d_model=WIDTH,
        encoder_layers=ENCODER_LAYERS, decoder_layers=DECODER_LAYERS,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS,
        encoder_ffn_dim=FEED_FORWARD, decoder_ffn_dim=FEED_FORWARD,
        max_source_positions=SOURCE_POSITIONS, max_target_positions=TARGET_POSITIONS,
        dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, scale_embedding=False, use_cache=True,
        bos_token_id=end, eos_token_id=end, pad_token_id=end, decoder_start_token_id=special_id("startoftranscript"),
        suppress_tokens=suppressed(), begin_suppress_tokens=blank(),
        architectures=["WhisperForConditionalGeneration"],
    )  # fmt: skip
    values: dict[str, object] = settings.to_dict()
    for name in ("dtype", "torch_dtype"):
        values.pop(name, None)
    return values | {"torch_dtype": "float16", "num_hidden_layers": ENCODER_LAYERS}


def suppressed() -> list[int]:
    """Return the single bytes that are no speech: symbols, as in Whisper's own list."""
    symbols = byte_symbols()
    return sorted(text_tokens()[symbols[ord(sign)]] for sign in '"#()*+/:;<=>@[\\]^_`{|}~')


def blank() -> list[int]:
    """Return the bare space, which no text begins with; the end stays allowed, so that silence is an empty text."""
    return [text_tokens()[byte_symbols()[ord(" ")]]]


def generation_config(alignment_heads: list[list[int]]) -> dict[str, object]:
    """Return generation_config.json."""
    end = special_id("endoftext")
    return {
        "alignment_heads": alignment_heads,
        "begin_suppress_tokens": blank(),
        "bos_token_id": end,
        "decoder_start_token_id": special_id("startoftranscript"),
        "eos_token_id": end,
        "is_multilingual": True,
        "lang_to_id": {f"<|{code}|>": special_id(code) for code in LANGUAGE_CODES},
        "max_initial_timestamp_index": 50,
        "max_length": TARGET_POSITIONS,
        "no_timestamps_token_id": special_id("notimestamps"),
        "pad_token_id": end,
        "prev_sot_token_id": special_id("startofprev"),
        "return_timestamps": False,
        "suppress_tokens": suppressed(),
        "task_to_id": {task: special_id(task) for task in ("transcribe", "translate")},
    }


def write_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files, tokenizer.json without white space."""
    end = "<|endoftext|>"
    tokenizer = transformers.WhisperTokenizer(
        vocab=text_tokens(), merges=[*merges()], pad_token=end, model_max_length=1024
    )
    specials = [transformers.AddedToken(token, special=True, normalized=False) for token in special_tokens()]
    tokenizer.add_tokens(specials, special_tokens=True)
    moments = [transformers.AddedToken(token, special=False, normalized=False) for token in timestamp_tokens()]
    tokenizer.add_tokens(moments)
    for token, index in (text_tokens() | special_tokens() | timestamp_tokens()).items():
        if tokenizer.convert_tokens_to_ids(token) != index:
            raise RuntimeError(f"the tokenizer numbers {token!r} otherwise")
    tokenizer.set_prefix_tokens()
    tokenizer.save_pretrained(folder)
    whole = folder / "tokenizer.json"
    parts = json.loads(whole.read_text("utf-8"))
    whole.write_text(json.dumps(parts, ensure_ascii=False, separators=(",", ":")), "utf-8")
    (folder / "vocab.json").write_text(json.dumps(text_tokens(), ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges())]) + "\n", "utf-8")


def write_transformers(model: Nano, folder: Path, alignment_heads: list[list[int]]) -> None:
    """Write the Hugging Face form."""
    folder.mkdir()
    weights = {name: value.half().contiguous() for name, value in model.exported().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder)
    transformers.WhisperFeatureExtractor(feature_size=MELS).save_pretrained(folder)  # type: ignore[no-untyped-call]
    for name, values in (("config", config()), ("generation_config", generation_config(alignment_heads))):
        (folder / f"{name}.json").write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")


def check(model: Nano, folder: Path) -> None:
    """Raise unless `transformers` computes from `folder` what the network here computes."""
    served = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, MELS, 3000, generator=generator) * 0.3
    tokens = torch.randint(vocabulary_size(), (1, 20), generator=generator)
    with torch.no_grad():
        theirs = served(input_features=features, decoder_input_ids=tokens).logits[0]
        ours = model(features, tokens, torch.ones_like(tokens, dtype=torch.bool)).logits
    if float((ours - theirs).abs().max()) > 0.05 * float(ours.std()):
        raise RuntimeError("transformers computes something else")


def move(source: Path, target: Path) -> None:
    """Replace the files of `target` one by one."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        file.chmod(0o644)
        os.replace(file, target / file.name)


def main() -> None:
    """Export the running average of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    state = torch.load(options.run / "last.pt", map_location="cpu")
    model = Nano(1 + len(FRAME_CLASSES)).eval()
    model.load_state_dict(state["average"])
    sample = [item for item in read_corpus(options.corpus)[::997] if len(item[0].words) > 2]
    errors = head_errors(model, sample)
    print(f"step {state['step']}, word onset error per head: {errors}")
    heads = sorted([list(place) for place, error in errors.items() if error <= min(errors.values()) + TOLERATED_S])

    options.target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.target) as scratch:
        hf, ct2 = Path(scratch) / "hf", Path(scratch) / "ct2"
        write_transformers(model, hf, heads)
        check(model, hf)
        TransformersConverter(str(hf), copy_files=[*COPIED]).convert(str(ct2), quantization="int8")
        move(hf, options.target / "hf")
        move(ct2, options.target / "ct2")


if __name__ == "__main__":
    main()
