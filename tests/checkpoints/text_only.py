"""Makes a checkpoint of another family than Whisper: a GLM-ASR of two layers that has learnt nothing.

Run by the Python of vLLM's environment, which has transformers: `python text_only.py DIRECTORY`. Its texts are noise; what
it shows is that vLLM loads such a model, and that the engine can ask it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    PreTrainedTokenizerFast,
    WhisperFeatureExtractor,
)

AUDIO, END, PAD = "<|pad|>", "<|end|>", "<|padding|>"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
SIZE = 64


def write(directory: Path) -> None:
    """Write all files of the checkpoint."""
    vocabulary = {character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}
    bare = Tokenizer(BPE(vocabulary, []))
    bare.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bare.decoder = ByteDecoder()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, eos_token=END, pad_token=PAD, additional_special_tokens=[AUDIO], chat_template=TEMPLATE
    )
    GlmAsrProcessor(WhisperFeatureExtractor(feature_size=128), tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    layers = {"hidden_size": SIZE, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    end = tokenizer.convert_tokens_to_ids(END)
    text = {
        "vocab_size": len(tokenizer),
        "intermediate_size": 128,
        "max_position_embeddings": 2048,
        "eos_token_id": end,
    }
    config = GlmAsrConfig(
        audio_config=layers | {"intermediate_size": 4 * SIZE},
        text_config=layers | text,
        audio_token_id=tokenizer.convert_tokens_to_ids(AUDIO),
    )
    torch.manual_seed(0)
    GlmAsrForConditionalGeneration(config).to(torch.float32).save_pretrained(directory)
    # As the released checkpoint has them: transformers 5.19 writes one `model.` too many.
    file = directory / "model.safetensors"
    weights = {name.replace("model.model.", "model."): tensor for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


if __name__ == "__main__":
    write(Path(sys.argv[1]))
