"""A decoder in the Llama layout: pre-norm RMSNorm, rotary positions, SwiGLU, grouped-query
attention; the head is the embedding unless the configuration unties it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.linear import Linear, TiedEmbedding
from src.model.prefix_sharing.attention import Parts
from src.model.prefix_sharing.key_value_state import (
    After,
    Appended,
    KeyValueState,
    append_token,
    decoding,
    read_after,
    read_rows,
    state_of_packed,
)
from src.model.prefix_sharing.levels import Level
from src.model.prefix_sharing.one_pass import OnePass
from src.model.prefix_sharing.packing import Packed, Rows
from src.model.transformer.block import Block, TransformerConfig, rotary_tables


class Transformer(OnePass, nn.Module):
    """See src/model/__init__.py for the interface."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.n_embd
        embedding = TiedEmbedding if config.tied else nn.Embedding
        self.embedding = embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        if not config.tied:
            self.head = Linear(config.n_embd, config.vocab_size, bias=False)
        cos, sin = rotary_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            # GPT-2: what is added to the stream 2 * n_layer times is scaled down by its square
            # root.
            added = name.endswith(("attention_out.weight", "down.weight"))
            std = 0.02 / (2 * self.config.n_layer) ** 0.5 if added else 0.02
            nn.init.normal_(parameter, std=std)

    def forward(
        self, tokens: Tensor, lengths: Tensor, state: KeyValueState | None = None
    ) -> tuple[Tensor, KeyValueState]:
        """Read tokens (B, T) after `state`; returns hidden (B, T, D), normed for the head, and the
        new state.
        """
        batch, width = tokens.shape
        state = state or KeyValueState((), tokens.new_zeros(batch))
        line = tokens.flatten(), self._positions(state, lengths, width).flatten()
        if decoding(width):
            stored = (len(self.blocks), self.blocks[0].kv_heads, self.blocks[0].head_size)
            attentions, state = append_token(state, lengths, self.cos.new_zeros(batch, 0, *stored))
            stream = self._blocks(*line, attentions)
        else:
            kept: list[tuple[Tensor, Tensor]] = []
            stream = self._blocks(*line, read_after(state, width, len(self.blocks)), kept=kept)
            state = read_rows(state, lengths, width, kept)
        return self.norm(stream).unflatten(0, (batch, width)), state

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of hidden states (..., D)."""
        return self.embedding.logits(hidden) if self.config.tied else self.head(hidden)

    def read_packed(self, packed: Packed) -> Tensor:
        """Hidden states (M, D) of the wanted tokens of packed trees: what --compile compiles."""
        return self._read(packed)

    def read_trees(
        self, levels: Sequence[Level], packed: Packed, keep_state: bool = False
    ) -> tuple[Tensor, KeyValueState | None]:
        """As in OnePass."""
        if not keep_state:
            return self.read_packed(packed), None
        kept: list[tuple[Tensor, Tensor]] = []
        hidden = self._read(packed, kept)
        return hidden, state_of_packed(levels, packed, kept)

    def _read(self, packed: Packed, kept: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """Hidden states (M, D) of the wanted tokens. kept: as for `_blocks`."""
        attentions = [*[packed.attention] * (len(self.blocks) - 1), packed.last_attention]
        line = packed.tokens, packed.positions
        return self.norm(self._blocks(*line, attentions, packed.wanted, kept))

    def _blocks(
        self,
        tokens: Tensor,
        positions: Tensor,
        attentions: Sequence[Parts | Rows | After | Appended],
        wanted: Tensor | None = None,
        kept: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """The stream (P, D) after all blocks of a line of tokens (P,) at these positions (P,).

        attentions: one a block; they know which token sees which.
        wanted: the tokens (M,) whose stream is wanted, None: all. Of other tokens the last block
        reads only keys and values, and its attention is of those M.
        kept: a list for the keys and values (P, K, d) of each block.
        """
        cos, sin = (table.index_select(0, positions)[:, None] for table in (self.cos, self.sin))
        stream = F.embedding(tokens, self.embedding.weight)
        for block, attention in zip(self.blocks, attentions, strict=True):
            normed = block.attention_norm(stream)
            keys, values = block.keys_values(normed, cos, sin)
            if kept is not None:
                kept.append((keys, values))
            if wanted is not None and block is self.blocks[-1]:
                line = (normed, stream, cos, sin)
                normed, stream, cos, sin = (x.index_select(0, wanted) for x in line)
            mixed = attention.attend(block.queries(normed, cos, sin), keys, values)
            stream = block.finish(stream, mixed)
        return stream

    def _positions(self, state: KeyValueState, lengths: Tensor, width: int) -> Tensor:
        """Positions (B, width) of the tokens that follow a state."""
        after = state.lengths + lengths
        if len(after) and (most := int(after.max())) > self.config.block_size:
            raise ValueError(f"{most} tokens given, expected at most {self.config.block_size}")
        column = torch.arange(width, device=lengths.device)
        # Padding may lie beyond.
        return (state.lengths[:, None] + column).clamp_max(self.config.block_size - 1)
