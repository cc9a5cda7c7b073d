"""The Whisper network (Radford et al. 2022), small, with what only training needs.

Parameter names are those of `transformers.WhisperModel`, so the export renames nothing. Three things differ from it:
windows shorter than 30 s are accepted; the timestamps' embeddings are one matrix times sinusoids, so that every moment
is learned from every other; and the encoder carries a head that names the word spoken in each frame.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vocabulary import TIMESTAMPS, first_timestamp_id, vocabulary_size

WIDTH: Final = 128
HEADS: Final = 2
FEED_FORWARD: Final = 512
ENCODER_LAYERS: Final = 4
DECODER_LAYERS: Final = 2
MELS: Final = 80
SOURCE_POSITIONS: Final = 1500
TARGET_POSITIONS: Final = 448


def sinusoids(length: int) -> Tensor:
    """Return Whisper's position table: (length, WIDTH), sines then cosines, wavelengths up to 10,000."""
    half = WIDTH // 2
    waves = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
    angles = torch.arange(length)[:, None] * waves[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Attention(nn.Module):
    """Multi-head attention; the key projection has no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.k_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.v_proj = nn.Linear(WIDTH, WIDTH)
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, source: Tensor, *, causal: bool = False) -> Tensor:
        """Attend from `hidden` to `source`."""
        query, key, value = self._split(self.q_proj(hidden)), self._split(self.k_proj(source)), self.v_proj(source)
        mixed = F.scaled_dot_product_attention(query, key, self._split(value), is_causal=causal)
        return self._join(mixed)

    def explain(self, hidden: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Attend, and return the weights too: (batch, heads, targets, sources)."""
        query, key = self._split(self.q_proj(hidden)), self._split(self.k_proj(source))
        weights = (query @ key.transpose(2, 3) / math.sqrt(WIDTH // HEADS)).softmax(-1)
        return self._join(weights @ self._split(self.v_proj(source))), weights

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.view(*hidden.shape[:2], HEADS, -1).transpose(1, 2)

    def _join(self, heads: Tensor) -> Tensor:
        joined: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))
        return joined


class Layer(nn.Module):
    """What encoder and decoder layers share: self-attention and the feed-forward network, both behind a norm."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention()
        self.self_attn_layer_norm = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, FEED_FORWARD)
        self.fc2 = nn.Linear(FEED_FORWARD, WIDTH)
        self.final_layer_norm = nn.LayerNorm(WIDTH)
        self.dropout = dropout

    def drop(self, hidden: Tensor) -> Tensor:
        """Apply dropout while training."""
        return F.dropout(hidden, self.dropout, self.training)

    def attend(self, hidden: Tensor, *, causal: bool) -> Tensor:
        """Add self-attention."""
        normed = self.self_attn_layer_norm(hidden)
        return hidden + self.drop(self.self_attn(normed, normed, causal=causal))

    def feed(self, hidden: Tensor) -> Tensor:
        """Add the feed-forward network."""
        return hidden + self.drop(self.fc2(F.gelu(self.fc1(self.final_layer_norm(hidden)))))


class DecoderLayer(Layer):
    """A layer that also attends to the encoder."""

    def __init__(self, dropout: float) -> None:
        super().__init__(dropout)
        self.encoder_attn = Attention()
        self.encoder_attn_layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, hidden: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new hidden state and the weights of the cross-attention."""
        hidden = self.attend(hidden, causal=True)
        mixed, weights = self.encoder_attn.explain(self.encoder_attn_layer_norm(hidden), heard)
        return self.feed(hidden + self.drop(mixed)), weights


class Encoder(nn.Module):
    """Two convolutions (the second halves the frame rate to 50 Hz) and self-attention layers."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(MELS, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(SOURCE_POSITIONS, WIDTH)
        self.embed_positions.weight = nn.Parameter(sinusoids(SOURCE_POSITIONS), requires_grad=False)
        self.layers = nn.ModuleList(Layer(dropout) for _ in range(ENCODER_LAYERS))
        self.layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        """Encode features (batch, MELS, frames), at most 3,000 frames."""
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(features)))).transpose(1, 2)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        for layer in self.layers:
            assert isinstance(layer, Layer)
            hidden = layer.feed(layer.attend(hidden, causal=False))
        normed: Tensor = self.layer_norm(hidden)
        return normed


class Decoder(nn.Module):
    """Tokens in, hidden states out."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(first_timestamp_id(), WIDTH)
        self.embed_positions = nn.Embedding(TARGET_POSITIONS, WIDTH)
        self.layers = nn.ModuleList(DecoderLayer(dropout) for _ in range(DECODER_LAYERS))
        self.layer_norm = nn.LayerNorm(WIDTH)
        self.moments = nn.Linear(WIDTH, WIDTH, bias=False)
        self.register_buffer("times", sinusoids(TIMESTAMPS), persistent=False)
        nn.init.normal_(self.embed_tokens.weight, std=0.1)
        nn.init.orthogonal_(self.moments.weight, gain=0.1)
        with torch.no_grad():
            self.embed_positions.weight.copy_(0.1 * sinusoids(TARGET_POSITIONS))

    def table(self) -> Tensor:
        """Return the embeddings of all tokens: (vocabulary, WIDTH)."""
        return torch.cat([self.embed_tokens.weight, self.moments(self.times)])

    def forward(self, tokens: Tensor, heard: Tensor, table: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the hidden states (batch, tokens, WIDTH) and each layer's cross-attention."""
        hidden = F.embedding(tokens, table) + self.embed_positions.weight[: tokens.shape[1]]
        attention = []
        for layer in self.layers:
            hidden, weights = layer(hidden, heard)
            attention.append(weights)
        return self.layer_norm(hidden), attention


class Output(NamedTuple):
    """logits: one row per chosen position. attention: per decoder layer. frames: the words' scores in each frame."""

    logits: Tensor
    attention: list[Tensor]
    frames: Tensor


class Nano(nn.Module):
    """The whole network."""

    def __init__(self, frame_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = Encoder(dropout)
        self.decoder = Decoder(dropout)
        self.frame_head = nn.Linear(WIDTH, frame_classes)

    def forward(self, features: Tensor, tokens: Tensor, chosen: Tensor) -> Output:
        """Run on features (batch, MELS, frames) and tokens (batch, length); `chosen` marks the positions to score."""
        heard = self.encoder(features)
        table = self.decoder.table()
        hidden, attention = self.decoder(tokens, heard, table)
        return Output(hidden[chosen] @ table.T, attention, self.frame_head(heard))

    def exported(self) -> dict[str, Tensor]:
        """Return the weights under the names of `transformers.WhisperForConditionalGeneration`."""
        inner = {name: value for name, value in self.state_dict().items() if name.split(".")[0] != "frame_head"}
        del inner["decoder.moments.weight"]
        inner["decoder.embed_tokens.weight"] = self.decoder.table().detach()
        assert inner["decoder.embed_tokens.weight"].shape[0] == vocabulary_size()
        return {f"model.{name}": value for name, value in inner.items()}
