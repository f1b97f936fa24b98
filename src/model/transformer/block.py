"""One block of the transformer, its rotary positions, and the configuration of the whole."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.checks import require_bool, require_positive_int
from src.model.linear import Linear
from src.utils.errors import UserError

# On a CPU, without gradients, a block ends in pieces of so many tokens, so that what lies between
# stays in the processor's cache.
ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class TransformerConfig:
    """vocab_size: V. n_inner: width of the SwiGLU, default 8/3 of n_embd rounded up to 16.
    head_size: d, default n_embd / n_head. block_size: most tokens read. tied: the head is the
    embedding; False: a matrix of its own. pointer: whether a pointer stands on top
    (src/model/pointer.py).
    rope_scaling: of Llama 3.1 and later, [factor, low_freq_factor, high_freq_factor, positions that
    the model was first trained on], see `rotary_frequencies`.
    qkv_bias, out_bias: whether queries, keys and values have biases, and what attention found.
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
        if self.head_size % 2:
            raise UserError(f"head_size {self.head_size} given, expected an even number")
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
        """The stream (..., D) with what attention found (..., K * G * d) and with the SwiGLU
        (Shazeer 2020, 2002.05202) of that.
        """
        in_pieces = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if in_pieces and stream.device.type == "cpu" and len(stream) > ROWS_AT_ONCE:
            pieces = zip(stream.split(ROWS_AT_ONCE), mixed.split(ROWS_AT_ONCE), strict=True)
            return torch.cat([self.finish(*piece) for piece in pieces])
        stream = stream + self.attention_out(mixed)
        gate, up = self.gate_up(self.mlp_norm(stream)).chunk(2, -1)
        return stream + self.down(F.silu(gate) * up)
