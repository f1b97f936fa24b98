"""A decoder in the Llama layout: pre-norm RMSNorm, rotary positions, SwiGLU, grouped-query
attention; the head is the embedding unless the configuration unties it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.checks import require_positive_int
from src.model.transformer.attention import (
    BUFFER_COLUMNS,
    Fold,
    Segment,
    TransformerState,
    attend,
    fold_of,
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
    does.

    x: (B, T, heads, d); cos, sin: (B, T, 1, d / 2).
    """
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def rotary_tables(config: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, each (block_size, d / 2).

    float32 throughout, operation by operation as Llama has it: rounding moves an angle of 1,000 by
    up to 1e-4, and more exact tables gave logits 4e-4 apart from transformers'.
    """
    size = config.n_embd // config.n_head
    frequency = 1.0 / config.rope_theta ** (torch.arange(0, size, 2).float() / size)
    angle = torch.arange(config.block_size).float()[:, None] * frequency
    return angle.cos(), angle.sin()


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
        """Keys (rotated) and values of normed inputs (B, T, D), each (B, K, T, d)."""
        both = self.key_value(normed).unflatten(-1, (2, self.kv_heads, self.head_size))
        keys, values = both.unbind(2)
        return rotate(keys, cos, sin).transpose(1, 2), values.transpose(1, 2)

    def queries(self, normed: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries (rotated) of normed inputs (B, T, D), (B, T, K, G, d)."""
        query = self.query(normed).unflatten(-1, (-1, self.head_size))
        return rotate(query, cos, sin).unflatten(2, (self.kv_heads, self.groups))

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

    def _read(
        self, tokens: Tensor, lengths: Tensor, state: TransformerState | None, last_block: bool
    ) -> tuple[Tensor, TransformerState]:
        batch, length = tokens.shape
        if state is None:
            state = TransformerState((), tokens.new_zeros(batch))
        column = torch.arange(length, device=tokens.device)
        position = (state.lengths[:, None] + column).clamp_max(self.config.block_size - 1)
        cos, sin = (
            table.index_select(0, position.flatten()).view(batch, length, 1, -1)
            for table in (self.cos, self.sin)
        )
        earlier, buffer = _split_buffer(state.segments, length)
        folds = [fold_of(segment) for segment in earlier]
        real = column < lengths[:, None]
        if buffer is not None:
            buffer = _make_room(buffer, real)
            masked = ~buffer.real[:, None, None, None, : buffer.used]
            masked[..., -1] = False  # a padding token sees itself, so that no row is without keys
        else:
            masked = None if length == 1 else (column[:, None] < column)[:, None, :]
        stream = F.embedding(tokens, self.embedding.weight)
        own = []
        for layer, block in enumerate(self.blocks):
            normed = block.attention_norm(stream)
            keys, values = block.keys_values(normed, cos, sin)
            if buffer is not None:
                keys, values = _append(buffer, layer, keys, values)
            own.append((keys, values))
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
            if _decoding(length):
                buffer = _make_buffer(buffer)
        return stream, TransformerState((*earlier, buffer), state.lengths + lengths)


def _decoding(length: int) -> bool:
    """Tokens read one at a time without gradients are appended in place to a preallocated buffer.
    """
    return length == 1 and torch.is_inference_mode_enabled()


def _split_buffer(
    segments: tuple[Segment, ...], length: int
) -> tuple[tuple[Segment, ...], Segment | None]:
    """Segments that stay as they are, and the decoding buffer that this call may append to, if
    there is one.
    """
    if not segments or not _decoding(length):
        return segments, None
    last = segments[-1]
    return (segments[:-1], last) if last.written == [last.used] else (segments, None)


def _make_buffer(segment: Segment, columns: int = BUFFER_COLUMNS) -> Segment:
    """The same segment with room for `columns` columns."""

    def grown(x: Tensor, dim: int) -> Tensor:
        shape = list(x.shape)
        shape[dim] = columns
        out = x.new_zeros(shape)
        out.narrow(dim, 0, segment.used).copy_(x.narrow(dim, 0, segment.used))
        return out

    return Segment(
        tuple(grown(k, 2) for k in segment.keys),
        tuple(grown(v, 2) for v in segment.values),
        grown(segment.real, 1),
        segment.used,
        None,
        [segment.used],
    )


def _make_room(buffer: Segment, real: Tensor) -> Segment:
    """The buffer with one more visible column, which `real` (B, 1) says is real or not; others'
    views stay as they are.
    """
    if buffer.used == buffer.real.shape[1]:
        buffer = _make_buffer(buffer, 2 * buffer.used)
    buffer.real[:, buffer.used] = real[:, 0]
    buffer.written[0] += 1
    return buffer._replace(used=buffer.used + 1)


def _append(buffer: Segment, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Write one token's keys and values (B, K, 1, d) in the newest column; returns the visible
    columns.
    """
    buffer.keys[layer][:, :, buffer.used - 1] = keys[:, :, 0]
    buffer.values[layer][:, :, buffer.used - 1] = values[:, :, 0]
    return buffer.keys[layer][:, :, : buffer.used], buffer.values[layer][:, :, : buffer.used]
