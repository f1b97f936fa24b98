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
    Segment,
    TransformerState,
    append_token,
    decoding,
    read_after,
)
from src.model.prefix_sharing.levels import Level
from src.model.prefix_sharing.packing import Packed, Rows, pack, parts_pay, starts_of, to_rows
from src.model.transformer.block import Block, TransformerConfig, rotary_tables


class Transformer(nn.Module):
    """See src/model/__init__.py for the interface."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.n_embd
        self.in_rows = False  # forests by `Rows` everywhere: what --compile can compile once
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
        self, tokens: Tensor, lengths: Tensor, state: TransformerState | None = None
    ) -> tuple[Tensor, TransformerState]:
        """Read tokens (B, T) after `state`; returns hidden (B, T, D), normed for the head, and the
        new state.
        """
        batch, width = tokens.shape
        state = state or TransformerState((), tokens.new_zeros(batch))
        line = tokens.flatten(), self._positions(state, lengths, width).flatten()
        if decoding(width):
            stored = (len(self.blocks), self.blocks[0].kv_heads, self.blocks[0].head_size)
            attentions, state = append_token(state, lengths, self.cos.new_zeros(batch, 0, *stored))
            stream = self._blocks(*line, attentions)
        else:
            kept: list[tuple[Tensor, Tensor]] = []
            stream = self._blocks(*line, read_after(state, width, len(self.blocks)), kept=kept)
            rows = torch.arange(batch, device=tokens.device)
            own = Segment(*zip(*kept, strict=True), rows * width, lengths, rows)
            state = TransformerState((*state.segments, own), state.lengths + lengths)
        return self.norm(stream).unflatten(0, (batch, width)), state

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of hidden states (..., D)."""
        return self.embedding.logits(hidden) if self.config.tied else self.head(hidden)

    def read_levels(self, levels: Sequence[Level]) -> list[Tensor]:
        """Hidden states (R, T, D) of each level, 0 in the padding: what LevelByLevel finds, but in
        one pass. So are the next three.
        """
        packed = self._pack(levels, "all")
        hidden = self.read_packed(packed)
        found = []
        for depth, level in enumerate(levels):
            here = (packed.level == depth).nonzero().squeeze(1)
            found.append(to_rows(hidden.index_select(0, here), packed.place[here], level))
        return found

    def read_completions(self, levels: Sequence[Level]) -> Tensor:
        """Hidden states (R, T, D) of the last level alone, 0 in the padding."""
        packed = self._pack(levels, "last level")
        here = (packed.level == len(levels) - 1).nonzero().squeeze(1)
        return to_rows(self.read_packed(packed), packed.place[here], levels[-1])

    def read_last(self, levels: Sequence[Level]) -> Tensor:
        """Hidden states (R, D) at the last token of each row of the last level, 0 for an empty row.
        """
        packed = self._pack(levels, "ends")
        return self._ends(self.read_packed(packed), packed, levels[-1])

    def prefill(self, levels: Sequence[Level]) -> tuple[Tensor, TransformerState]:
        """What `read_last` gives, and the state after each row of the last level."""
        kept: list[tuple[Tensor, Tensor]] = []
        packed = self._pack(levels, "ends")
        ends = self._ends(self._read(packed, kept), packed, levels[-1])
        keys, values = zip(*kept, strict=True)
        segments: list[Segment] = []
        rows, lengths = torch.arange(len(levels[-1].lengths), device=packed.tokens.device), 0
        for depth, level in reversed(list(enumerate(levels))):
            own = Segment(keys, values, starts_of(packed, depth, level), level.lengths, rows)
            segments.insert(0, own)
            lengths, rows = lengths + level.lengths[rows], level.parents[rows]
        return ends, TransformerState(tuple(segments), lengths)

    def read_packed(self, packed: Packed) -> Tensor:
        """Hidden states (wanted, D) of a packed forest: the pass that --compile compiles."""
        return self._read(packed)

    def _read(self, packed: Packed, kept: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """Hidden states (wanted, D) of a packed forest. kept: as for `_blocks`."""
        attentions = [*[packed.attention] * (len(self.blocks) - 1), packed.last_attention]
        line = packed.tokens, packed.positions
        return self.norm(self._blocks(*line, attentions, packed.wanted, kept))

    def _ends(self, hidden: Tensor, packed: Packed, last: Level) -> Tensor:
        """Hidden states of ends, as they stand in the line, put in their rows (R, D); else 0."""
        rows = packed.place[packed.wanted] // last.tokens.shape[1]
        return hidden.new_zeros(len(last.lengths), self.width).index_copy(0, rows, hidden)

    def _pack(self, levels: Sequence[Level], wanted: str) -> Packed:
        """By parts where one call a part pays, on a CPU in float32; else in rows, with a mask."""
        on_cpu = levels[0].tokens.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        by_parts = on_cpu and not self.in_rows and parts_pay(levels, self.width)
        return pack(levels, wanted, in_rows=not by_parts)

    def _blocks(
        self,
        tokens: Tensor,
        positions: Tensor,
        attentions: Sequence[Parts | Rows | After | Appended],
        wanted: Tensor | None = None,
        kept: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """The stream (P, D) after all blocks of a line of tokens (P,) at these positions (P,).

        attentions: one a block, which know who sees whom. wanted: the tokens (M,) whose stream is
        wanted, None: all; the last block reads the others' keys and values only, and its attention
        is of those M. kept: a list for the keys and values (P, K, d) of each block.
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

    def _positions(self, state: TransformerState, lengths: Tensor, width: int) -> Tensor:
        """Positions (B, width) of the tokens that follow a state."""
        after = state.lengths + lengths
        if len(after) and (most := int(after.max())) > self.config.block_size:
            raise ValueError(f"{most} tokens given, expected at most {self.config.block_size}")
        column = torch.arange(width, device=lengths.device)
        # Padding may lie beyond.
        return (state.lengths[:, None] + column).clamp_max(self.config.block_size - 1)
