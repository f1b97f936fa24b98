"""A decoder in the Llama layout: pre-norm RMSNorm, rotary positions, SwiGLU, grouped-query
attention; the head is the embedding unless the configuration unties it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.levels import Level
from src.model.products import Linear, TiedEmbedding
from src.model.transformer.attention import (
    attend_part,
    attend_parts,
    attend_shown,
    join,
    shown_of,
)
from src.model.transformer.block import Block, TransformerConfig, rotary_tables
from src.model.transformer.packing import Packed, pack, parts_pay, starts_of, to_rows
from src.model.transformer.state import (
    Buffer,
    Segment,
    TransformerState,
    append,
    decoding,
    for_decoding,
    make_room,
    side_by_side,
)


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
        stream, state = self._read(tokens, lengths, state, last_block=True)
        return self.norm(stream), state

    def read(
        self, tokens: Tensor, lengths: Tensor, state: TransformerState | None = None
    ) -> TransformerState:
        """The state after tokens (B, T) whose hidden states nobody needs: the last block stops at
        keys and values.
        """
        return self._read(tokens, lengths, state, last_block=False)[1]

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

    def read_leaves(self, levels: Sequence[Level]) -> Tensor:
        """Hidden states (R, T, D) of the last level alone, 0 in the padding."""
        packed = self._pack(levels, "last level")
        here = (packed.level == len(levels) - 1).nonzero().squeeze(1)
        return to_rows(self.read_packed(packed), packed.place[here], levels[-1])

    def read_ends(self, levels: Sequence[Level]) -> Tensor:
        """Hidden states (R, D) at the last token of each row of the last level, 0 for an empty row.
        """
        packed = self._pack(levels, "ends")
        return self._ends(self.read_packed(packed), packed, levels[-1])

    def prefill(self, levels: Sequence[Level]) -> tuple[Tensor, TransformerState]:
        """What `read_ends` gives, and the state after each row of the last level."""
        kept: list[tuple[Tensor, Tensor]] = []
        packed = self._pack(levels, "ends")
        ends = self._ends(self.norm(self._blocks(packed, kept)), packed, levels[-1])
        keys, values = zip(*kept, strict=True)
        segments: list[Segment] = []
        rows, lengths = torch.arange(len(levels[-1].lengths), device=packed.tokens.device), 0
        for depth, level in reversed(list(enumerate(levels))):
            own = Segment(keys, values, starts_of(packed, depth, level), level.lengths, rows)
            segments.insert(0, own)
            lengths, rows = lengths + level.lengths[rows], level.parents[rows]
        return ends, TransformerState(tuple(segments), lengths)

    def read_packed(self, packed: Packed) -> Tensor:
        """Hidden states (wanted, D) of a packed forest."""
        return self.norm(self._blocks(packed))

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
        self, packed: Packed, kept: list[tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        """The stream (wanted, D) after all blocks. kept: a list for the keys and values (P, K, d)
        of each block.
        """
        attention = packed.attention
        cos, sin = (x.index_select(0, packed.positions)[:, None] for x in (self.cos, self.sin))
        stream = F.embedding(packed.tokens, self.embedding.weight)
        for layer, block in enumerate(self.blocks):
            normed = block.attention_norm(stream)
            pair = block.keys_values(normed, cos, sin)
            if kept is not None:
                kept.append(pair)
            if layer + 1 == len(self.blocks) and packed.wanted is not None:
                attention = packed.last_attention  # from here on, what is wanted alone
                line = (normed, stream, cos, sin)
                normed, stream, cos, sin = (x.index_select(0, packed.wanted) for x in line)
            mixed = attention.attend(block.queries(normed, cos, sin), *pair)
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

    def _read(
        self, tokens: Tensor, lengths: Tensor, state: TransformerState | None, last_block: bool
    ) -> tuple[Tensor, TransformerState]:
        """Tokens (B, T) after a state, each row with keys and values of its own: plain, for any T
        and with gradients. One token at a time without them takes `_decode`.
        """
        batch, length = tokens.shape
        state = state or TransformerState((), tokens.new_zeros(batch))
        position = self._positions(state, lengths, length)
        if decoding(length):
            stream, state = self._decode(tokens[:, 0], lengths, position[:, 0], state)
            return stream[:, None], state
        cos, sin = (
            table.index_select(0, position.flatten()).view(batch, length, 1, -1)
            for table in (self.cos, self.sin)
        )
        earlier = shown = None
        if state.segments:
            *earlier, before = side_by_side(state.segments)
            column = torch.arange(length, device=tokens.device)
            past = (column <= column[:, None]).expand(batch, -1, -1)
            before = before[:, None].expand(-1, length, -1)
            shown = shown_of(torch.cat((before, past), -1))[:, None]
        stream = F.embedding(tokens, self.embedding.weight)
        kept = []
        for layer, block in enumerate(self.blocks):
            normed = block.attention_norm(stream)
            pair = block.keys_values(normed, cos, sin)
            kept.append([x.flatten(0, 1) for x in pair])
            if layer + 1 == len(self.blocks) and not last_block:
                break
            if earlier is not None:
                pair = [torch.cat((x[layer], y), 1) for x, y in zip(earlier, pair, strict=True)]
            pair = [x.transpose(1, 2) for x in pair]
            query = block.queries(normed, cos, sin).flatten(2, 3).transpose(1, 2)
            mixed = attend_shown(query, *pair, shown).transpose(1, 2).flatten(2)
            stream = block.finish(stream, mixed)
        rows = torch.arange(batch, device=tokens.device)
        segment = Segment(*zip(*kept, strict=True), rows * length, lengths, rows)
        return stream, TransformerState((*state.segments, segment), state.lengths + lengths)

    def _decode(
        self, token: Tensor, lengths: Tensor, position: Tensor, state: TransformerState
    ) -> tuple[Tensor, TransformerState]:
        """One token (B,) a row after a state, its keys and values appended in place; the stream
        (B, D).
        """
        size, heads = self.blocks[0].head_size, self.blocks[0].kv_heads
        no_columns = (self.cos.new_zeros(len(token), 0, heads, size),) * len(self.blocks)
        nothing = Buffer(no_columns, no_columns, lengths.new_zeros(len(token), 0).bool(), 0, [0])
        prefix, buffer = for_decoding(state, nothing)
        parts = prefix.parts() if prefix else []
        buffer = make_room(buffer, lengths > 0)
        seen = buffer.real[:, : buffer.used].clone()
        seen[:, -1] = True  # a padding token sees itself, so that no row is without keys
        shown = shown_of(seen)[:, None, None]
        cos, sin = (table.index_select(0, position)[:, None] for table in (self.cos, self.sin))
        stream = F.embedding(token, self.embedding.weight)
        for layer, block in enumerate(self.blocks):
            normed = block.attention_norm(stream)
            own = append(buffer, layer, *block.keys_values(normed, cos, sin))
            query = block.queries(normed, cos, sin)
            mixed = attend_part(query, *own, shown)
            if parts:
                shared = prefix.keys[layer], prefix.values[layer]
                mixed = join(*mixed, *attend_parts(query, *shared, parts))
            stream = block.finish(stream, mixed[0].flatten(1))
        segments = (buffer,) if prefix is None else (prefix, buffer)
        return stream, TransformerState(segments, state.lengths + lengths)
