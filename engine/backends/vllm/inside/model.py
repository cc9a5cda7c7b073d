"""Whisper as vLLM serves it for us: its own class, with the decoder prompt and the languages put right.

Loaded by vLLM itself, in its processes, under the name that checkpoints give (`engine.backends.vllm.inside.plugin`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers.models.whisper.tokenization_whisper import LANGUAGES
from vllm.inputs import ExplicitEncoderDecoderPrompt, TextPrompt, TokensPrompt
from vllm.model_executor.models.whisper import (
    WhisperDummyInputsBuilder,
    WhisperForConditionalGeneration,
    WhisperMultiModalProcessor,
    WhisperProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.tokenizers import cached_tokenizer_from_config

from engine.backends.vllm.inside.prompt import decoder_prompt, find_special, refuse_without_timestamps
from engine.backends.vllm.inside.rules import Checkpoint

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.config.speech_to_text import SpeechToTextParams


class WholePromptProcessor(WhisperMultiModalProcessor):  # type: ignore[misc]  # vLLM is not installed here
    """vLLM's processor, told that our prompts are complete.

    Otherwise vLLM puts a second `<|startoftranscript|>` before every prompt that begins with earlier text.
    """

    skip_decoder_start_token: bool = True


@MULTIMODAL_REGISTRY.register_processor(  # likewise
    WholePromptProcessor, info=WhisperProcessingInfo, dummy_inputs=WhisperDummyInputsBuilder
)
class SottovoceWhisper(WhisperForConditionalGeneration):  # type: ignore[misc]  # vLLM is not installed here
    """vLLM's Whisper, for every language that Whisper has a token for; vLLM's own knows 57 of them."""

    supported_languages: ClassVar[Mapping[str, str]] = LANGUAGES

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Raises ValueError for a checkpoint that could be loaded, but of whose answers vLLM would make nothing."""
        config = vllm_config.model_config
        refuse_without_timestamps(cached_tokenizer_from_config(config), _checkpoint(config.model).first_timestamp)
        super().__init__(vllm_config=vllm_config, prefix=prefix)

    @classmethod
    def get_generation_prompt(cls, stt_params: SpeechToTextParams) -> ExplicitEncoderDecoderPrompt:
        """The clip for the encoder, and the decoder's first tokens. Raises ValueError, which vLLM answers with 400."""
        tokens = decoder_prompt(
            cached_tokenizer_from_config(stt_params.model_config),
            text=stt_params.request_prompt,
            language=stt_params.language or "en",
            task=stt_params.task_type,
            wanted=stt_params.hotwords,
            english_only=_checkpoint(stt_params.model_config.model).english_only,
        )
        return ExplicitEncoderDecoderPrompt(
            encoder_prompt=TextPrompt(
                prompt="", multi_modal_data={"audio": (stt_params.audio, stt_params.stt_config.sample_rate)}
            ),
            # For `verbose_json` vLLM insists on a text that it can edit; it goes by the tokens all the same.
            decoder_prompt=TokensPrompt(prompt_token_ids=tokens, prompt=""),
        )

    @classmethod
    def get_language_token_ids(cls, tokenizer: Any) -> list[int]:
        """The tokens that vLLM's own detection may choose from; checkpoints before large-v3 lack one of them."""
        found = (find_special(tokenizer, language) for language in cls.supported_languages)
        return [token for token in found if token is not None]


@cache
def _checkpoint(directory: str) -> Checkpoint:
    return Checkpoint.read(Path(directory))
