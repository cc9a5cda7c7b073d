"""Makes an instruct model: a Qwen2 of two layers that has learnt nothing, with a chat template.

Run by the Python of vLLM's environment, which has transformers: `python instruct.py DIRECTORY`. What it writes is noise, in
the form that it is held to; what it shows is that vLLM loads such a model, and that its answers keep to a schema.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZE = 64
LENGTH = 16_384


def write(directory: Path) -> None:
    """Write all files of the checkpoint."""
    vocabulary = {character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}
    bare = Tokenizer(BPE(vocabulary, []))
    bare.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bare.decoder = ByteDecoder()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[START],
        chat_template=TEMPLATE,
        model_max_length=LENGTH,
    )
    tokenizer.save_pretrained(directory)
    end = tokenizer.convert_tokens_to_ids(END)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=SIZE,
        intermediate_size=2 * SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        eos_token_id=end,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).to(torch.float32)
    with torch.no_grad():  # a byte that is not a whole character is never the likeliest
        head = model.lm_head.weight
        for byte in map(tokenizer.convert_tokens_to_ids, _beyond_ascii()):
            head[byte] = 0
    model.save_pretrained(directory)


def _beyond_ascii() -> list[str]:
    """The tokens of bytes that stand for no character by themselves: the alphabet has those of ASCII as they are."""
    return [character for character in ByteLevel.alphabet() if ord(character) > 126]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
