"""A decoder in the Llama layout: pre-norm RMSNorm, rotary positions, SwiGLU, grouped-query
attention; the head is the embedding unless the configuration unties it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.checks import require_positive_int
from src.model.levels import Level
from src.model.transformer.attention import Fold, attend, attend_shown, fold_of
from src.model.transformer.packing import Packed, columns_of, in_columns, pack, real_places
from src.model.transformer.state import (
    Segment,
    TransformerState,
    append,
    decoding,
    make_buffer,
    make_room,
    split_buffer,
)
from src.names import UserError


@dataclass(frozen=True)
class TransformerConfig:
    """vocab_size: V. n_inner: width of the SwiGLU, default 8/3 of n_embd rounded up to 16.
    block_size: most tokens read. tied: the head is the embedding; False: a matrix of its own.
    """

    vocab_size: int
    n_layer: int = 3
    n_embd: int = 128
    n_head: int = 4
    n_kv_head: int | None = None
    n_inner: int | None = None
    block_size: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = True

    def __post_init__(self) -> None:
        if self.n_kv_head is None:
            object.__setattr__(self, "n_kv_head", self.n_head)
        if self.n_inner is None and isinstance(self.n_embd, int):
            object.__setattr__(self, "n_inner", -(-self.n_embd * 8 // 3 // 16) * 16)
        require_positive_int(
            self, "vocab_size", "n_layer", "n_embd", "n_head", "n_kv_head", "n_inner", "block_size"
        )
        for name in ("rope_theta", "norm_eps"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value < float("inf"):
                raise UserError(f"{name} {value!r:.60} given, expected a number above 0")
        if not isinstance(self.tied, bool):
            raise UserError(f"tied {self.tied!r} given, expected True or False")
        if self.n_embd % self.n_head or (self.n_embd // self.n_head) % 2:
            raise UserError(
                f"n_embd {self.n_embd} with n_head {self.n_head} given, "
                "expected n_embd to be an even multiple of n_head"
            )
        if self.n_head % self.n_kv_head:
            raise UserError(
                f"n_head {self.n_head} with n_kv_head {self.n_kv_head} given, "
                "expected n_head to be a multiple of n_kv_head"
            )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, 2104.09864), halves rotated against each other as Llama
    does, with its roundings (one fused multiply-add for the two products moves logits by 2e-5).

    x: (..., heads, d); cos, sin: (..., 1, d).
    """
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def rotary_tables(config: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, each (block_size, d): a head's halves turn by the same
    angles, so the cosines stand there twice, the sines once negated (the first half loses what the
    second gains).

    float32 throughout, operation by operation as Llama has it: rounding moves an angle of 1,000 by
    up to 1e-4, and more exact tables gave logits 4e-4 apart from transformers'.
    """
    size = config.n_embd // config.n_head
    frequency = 1.0 / config.rope_theta ** (torch.arange(0, size, 2).float() / size)
    angle = torch.arange(config.block_size).float()[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


class Block(nn.Module):
    """Attention and SwiGLU, each on a normed input and added to the stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_size = config.n_embd // config.n_head
        self.kv_heads = config.n_kv_head
        self.groups = config.n_head // config.n_kv_head
        kv_width = self.kv_heads * self.head_size
        self.attention_norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.query = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.key_value = nn.Linear(config.n_embd, 2 * kv_width, bias=False)
        self.attention_out = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.mlp_norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.gate_up = nn.Linear(config.n_embd, 2 * config.n_inner, bias=False)
        self.down = nn.Linear(config.n_inner, config.n_embd, bias=False)

    def keys_values(self, normed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (rotated) and values of normed inputs (..., D), each (..., K, d)."""
        both = self.key_value(normed).unflatten(-1, (2, self.kv_heads, self.head_size))
        keys, values = both.unbind(-3)
        return rotate(keys, cos, sin), values

    def queries(self, normed: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries (rotated) of normed inputs (..., D), (..., K, G, d)."""
        query = self.query(normed).unflatten(-1, (-1, self.head_size))
        return rotate(query, cos, sin).unflatten(-2, (self.kv_heads, self.groups))

    def mlp(self, x: Tensor) -> Tensor:
        """SwiGLU (Shazeer 2020, 2002.05202) of the normed stream."""
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Transformer(nn.Module):
    """See src/model/__init__.py for the interface."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.n_embd
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        if not config.tied:
            self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
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
        head = self.embedding if self.config.tied else self.head
        return F.linear(hidden, head.weight)

    def read_levels(self, levels: Sequence[Level], last_only: bool = False) -> list[Tensor]:
        """Hidden states (R, T, D) of each level of a forest, 0 in the padding; `last_only`: of the
        last alone. The same as reading one level after the other, in one pass.
        """
        hidden = self.read_packed(pack(levels, "last level" if last_only else "all"))
        parts, at = [], 0
        for level in levels[-1:] if last_only else levels:
            real = real_places(level)
            places = hidden.new_zeros(level.tokens.numel(), self.width)
            places = places.index_copy(0, real, hidden[at : at + len(real)])
            parts.append(places.view(*level.tokens.shape, self.width))
            at += len(real)
        return parts

    def read_ends(self, levels: Sequence[Level]) -> Tensor:
        """Hidden states (R, D) at the last token of each row of the last level, 0 for an empty row.
        """
        hidden = self.read_packed(pack(levels, "ends"))
        rows = levels[-1].lengths.nonzero().squeeze(1)
        return hidden.new_zeros(len(levels[-1].lengths), self.width).index_copy(0, rows, hidden)

    def prefill(self, levels: Sequence[Level]) -> TransformerState:
        """The state after each row of the last level. The same as reading one level after the
        other, in one pass; the last block stops at keys and values.
        """
        kept: list[tuple[Tensor, Tensor]] = []
        self._blocks(pack(levels, "all"), kept)
        segments: list[Segment] = []
        rows, lengths, end = None, 0, len(kept[0][0])
        for level in reversed(levels):
            lengths = lengths + (level.lengths if rows is None else level.lengths[rows])
            real = real_places(level)
            start = end - len(real)
            pairs = [[in_columns(level, real, x[start:end]) for x in pair] for pair in kept]
            segments.insert(0, Segment(*zip(*pairs, strict=True), *columns_of(level), rows))
            rows, end = level.parents if rows is None else level.parents[rows], start
        return TransformerState(tuple(segments), lengths)

    def read_packed(self, packed: Packed) -> Tensor:
        """Hidden states (wanted, D) of a packed forest."""
        return self.norm(self._blocks(packed))

    def _blocks(
        self, packed: Packed, kept: list[tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        """The stream (wanted, D) after all blocks. kept: a list for the keys and values (P, K, d)
        of each block, where they alone are needed.
        """
        keys_at = queries_at = packed.keys
        cos, sin = (x.index_select(0, packed.positions)[:, None] for x in (self.cos, self.sin))
        stream = F.embedding(packed.tokens, self.embedding.weight)
        for layer, block in enumerate(self.blocks):
            normed = block.attention_norm(stream)
            pair = block.keys_values(normed, cos, sin)
            if kept is not None:
                kept.append(pair)
                if layer + 1 == len(self.blocks):
                    break
            keys, values = map(keys_at.spread, pair)
            if layer + 1 == len(self.blocks) and packed.wanted is not None:
                queries_at = packed.queries  # from here on, what is wanted alone
                line = (normed, stream, cos, sin)
                normed, stream, cos, sin = (x.index_select(0, packed.wanted) for x in line)
            query = queries_at.spread(block.queries(normed, cos, sin).flatten(1, 2))
            mixed = queries_at.gather(attend_shown(query, keys, values, queries_at.shown))
            stream = stream + block.attention_out(mixed)
            stream = stream + block.mlp(stream)
        return stream

    def _read(
        self, tokens: Tensor, lengths: Tensor, state: TransformerState | None, last_block: bool
    ) -> tuple[Tensor, TransformerState]:
        batch, length = tokens.shape
        if state is None:
            state = TransformerState((), tokens.new_zeros(batch))
        after = state.lengths + lengths
        if batch and (most := int(after.max())) > self.config.block_size:
            raise ValueError(f"{most} tokens given, expected at most {self.config.block_size}")
        column = torch.arange(length, device=tokens.device)
        position = state.lengths[:, None] + column
        position = position.clamp_max(self.config.block_size - 1)  # padding may lie beyond
        cos, sin = (
            table.index_select(0, position.flatten()).view(batch, length, 1, -1)
            for table in (self.cos, self.sin)
        )
        earlier, buffer = split_buffer(state.segments, length)
        folds = [fold_of(segment) for segment in earlier]
        real = column < lengths[:, None]
        if buffer is not None:
            buffer = make_room(buffer, real)
            masked = ~buffer.real[:, None, None, : buffer.used]
            masked[..., -1] = False  # a padding token sees itself, so that no row is without keys
        else:
            later = column[:, None] < column
            masked = later.repeat_interleave(self.blocks[0].groups, 0) if length > 1 else None
        stream = F.embedding(tokens, self.embedding.weight)
        own = []
        for layer, block in enumerate(self.blocks):
            normed = block.attention_norm(stream)
            pair = block.keys_values(normed, cos, sin)
            keys, values = (x.transpose(1, 2) for x in pair)
            if buffer is not None:
                keys, values = append(buffer, layer, keys, values)
            else:  # laid out for the products of all who will attend to them
                own.append((keys.contiguous(), values.contiguous()))
            if layer + 1 == len(self.blocks) and not last_block:
                break
            shared: list[tuple[Tensor, Tensor, Fold]] = [
                (
                    segment.keys[layer][:, :, : segment.used],
                    segment.values[layer][:, :, : segment.used],
                    fold,
                )
                for segment, fold in zip(earlier, folds, strict=True)
            ]
            mixed = attend(block.queries(normed, cos, sin), keys, values, shared, masked)
            stream = stream + block.attention_out(mixed)
            stream = stream + block.mlp(stream)
        if buffer is None:
            buffer = Segment(tuple(k for k, _ in own), tuple(v for _, v in own), real, length)
            if decoding(length):
                buffer = make_buffer(buffer)
        return stream, TransformerState((*earlier, buffer), after)
