"""A decoder in the Llama layout: pre-norm RMSNorm, rotary positions, SwiGLU, grouped-query
attention; the head is the embedding unless the configuration unties it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.checks import require_bool, require_positive_int
from src.model.linear import Linear, TiedEmbedding
from src.model.prefix_sharing import Level
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
from src.model.prefix_sharing.one_pass import OnePass
from src.model.prefix_sharing.packing import Packed, Rows
from src.utils.errors import UserError

# On a CPU, without gradients, a block ends in pieces of so many tokens, so that what lies between
# stays in the processor's cache.
TOKENS_AT_ONCE = 512


@dataclass(frozen=True)
class TransformerConfig:
    """vocab_size: V. n_inner: width of the SwiGLU, default 8/3 of n_embd rounded up to 16.
    head_size: d, default n_embd / n_head. block_size: most tokens read. tied: the head is the
    embedding; False: a matrix of its own. pointer: whether a pointer stands on top
    (src/model/pointer.py).
    rope_scaling: of Llama 3.1 and later, [factor, low_freq_factor, high_freq_factor, positions that
    the model was first trained on], see `rotary_frequencies`.
    qkv_bias: biases in the projections to queries, keys and values. out_bias: one in attention's
    output projection.
    """

    vocab_size: int
    n_layer: int = 2
    n_embd: int = 128
    n_head: int = 4
    n_kv_head: int | None = None
    n_inner: int | None = None
    head_size: int | None = None
    block_size: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = True
    pointer: bool = False
    rope_scaling: list[float] | None = None
    qkv_bias: bool = False
    out_bias: bool = False

    def __post_init__(self) -> None:
        if self.n_kv_head is None:
            object.__setattr__(self, "n_kv_head", self.n_head)
        if self.n_inner is None and isinstance(self.n_embd, int):
            object.__setattr__(self, "n_inner", -(-self.n_embd * 8 // 3 // 16) * 16)
        require_positive_int(
            self, "vocab_size", "n_layer", "n_embd", "n_head", "n_kv_head", "n_inner", "block_size"
        )
        if self.head_size is None:
            if self.n_embd % self.n_head or (self.n_embd // self.n_head) % 2:
                raise UserError(
                    f"n_embd {self.n_embd} with n_head {self.n_head} given, "
                    "expected n_embd to be an even multiple of n_head"
                )
            object.__setattr__(self, "head_size", self.n_embd // self.n_head)
        require_positive_int(self, "head_size")
        if self.head_size % 2 or self.head_size > self.n_embd:
            raise UserError(
                f"head_size {self.head_size} with n_embd {self.n_embd} given, expected an even "
                "number, no larger than n_embd"
            )
        for name in ("rope_theta", "norm_eps"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value < float("inf"):
                raise UserError(f"{name} {value!r:.60} given, expected a number above 0")
        require_bool(self, "tied", "pointer", "qkv_bias", "out_bias")
        if self.rope_scaling is not None:
            numbers = self.rope_scaling if isinstance(self.rope_scaling, list) else []
            sound = len(numbers) == 4 and all(
                type(n) in (int, float) and 0 < n < float("inf") for n in numbers
            )
            if not sound or not numbers[1] < numbers[2]:
                raise UserError(
                    f"rope_scaling {self.rope_scaling!r:.80} given, expected four numbers above 0, "
                    "the second below the third"
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


def rotary_frequencies(config: TransformerConfig) -> Tensor:
    """Radians a position of each pair of a head's numbers, (d / 2,).

    With rope_scaling (Llama 3.1, as transformers computes it) a model reads further than it was
    first trained to. A pair that turned fewer than `low` times over the positions of that training
    is slowed down by `factor`, one that turned more than `high` times is left as it is, and between
    the two frequencies are mixed.
    """
    size = config.head_size
    frequency = 1.0 / config.rope_theta ** (torch.arange(0, size, 2).float() / size)
    if config.rope_scaling is None:
        return frequency
    factor, low, high, positions = config.rope_scaling
    turns = positions / (2 * math.pi / frequency)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequency / factor + kept * frequency


def rotary_tables(config: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, each (block_size, d).

    Both halves of a head turn by the same angles, so the cosines stand there twice. So do the
    sines, once negated: the first half loses what the second gains.

    float32 throughout, operation by operation as Llama has it: rounding moves an angle of 1,000 by
    up to 1e-4, and more exact tables gave logits 4e-4 apart from transformers'.
    """
    angle = torch.arange(config.block_size).float()[:, None] * rotary_frequencies(config)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


class Block(nn.Module):
    """Attention and SwiGLU, each on a normed input and added to the stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.kv_heads = config.n_kv_head
        self.groups = config.n_head // config.n_kv_head
        kv_width = self.kv_heads * self.head_size
        self.attention_norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        width = config.n_head * self.head_size
        self.query = Linear(config.n_embd, width, bias=config.qkv_bias)
        self.key_value = Linear(config.n_embd, 2 * kv_width, bias=config.qkv_bias)
        self.attention_out = Linear(width, config.n_embd, bias=config.out_bias)
        self.mlp_norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.gate_up = Linear(config.n_embd, 2 * config.n_inner, bias=False)
        self.down = Linear(config.n_inner, config.n_embd, bias=False)

    def keys_values(self, normed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (rotated) and values of normed inputs (..., D), each (..., K, d)."""
        both = self.key_value(normed).unflatten(-1, (2, self.kv_heads, self.head_size))
        keys, values = both.unbind(-3)
        return rotate(keys, cos, sin), values

    def queries(self, normed: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries (rotated) of normed inputs (..., D), (..., K, G, d)."""
        query = self.query(normed).unflatten(-1, (-1, self.head_size))
        return rotate(query, cos, sin).unflatten(-2, (self.kv_heads, self.groups))

    def finish(self, stream: Tensor, mixed: Tensor) -> Tensor:
        """Add attention's output (..., K * G * d) to the stream (..., D), then the SwiGLU (Shazeer
        2020, 2002.05202) of the sum.
        """
        in_pieces = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if in_pieces and stream.device.type == "cpu" and len(stream) > TOKENS_AT_ONCE:
            pieces = zip(stream.split(TOKENS_AT_ONCE), mixed.split(TOKENS_AT_ONCE), strict=True)
            return torch.cat([self.finish(*piece) for piece in pieces])
        stream = stream + self.attention_out(mixed)
        gate, up = self.gate_up(self.mlp_norm(stream)).chunk(2, -1)
        return stream + self.down(F.silu(gate) * up)


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
        ids, positions = tokens.flatten(), self._positions(state, lengths, width).flatten()
        if decoding(width):
            heads, size = self.config.n_kv_head, self.config.head_size
            no_keys = self.cos.new_zeros(batch, 0, len(self.blocks), heads, size)
            attentions, state = append_token(state, lengths, no_keys)
            stream = self._blocks(ids, positions, attentions)
        else:
            kept: list[tuple[Tensor, Tensor]] = []
            attentions = read_after(state, width, len(self.blocks))
            stream = self._blocks(ids, positions, attentions, kept=kept)
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
        stream = self._blocks(packed.tokens, packed.positions, attentions, packed.wanted, kept)
        return self.norm(stream)

    def _blocks(
        self,
        tokens: Tensor,
        positions: Tensor,
        attentions: Sequence[Parts | Rows | After | Appended],
        wanted: Tensor | None = None,
        kept: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """The stream (P, D) after all blocks, of tokens (P,) at these positions (P,).

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
                normed, stream, cos, sin = (
                    x.index_select(0, wanted) for x in (normed, stream, cos, sin)
                )
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
