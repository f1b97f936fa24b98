"""An initialisation in which a transformer from scratch already knows how to copy.

Reading comprehension needs an induction head (Olsson et al. 2022, 2209.11895): having written
"Voz", look for an
earlier "Voz" and write what stood after it. From random weights that circuit takes most of a short
run to form, and until it has, nothing can be learnt about which words to copy. So it is laid out by
hand, in two heads, and training goes on from there; every weight stays free.

The residual stream of width D is divided at the start, for the embeddings only:

    [ constant | content: random, of equal length | slot: 0 ]

- Block 0, head 0 attends to the previous token: its queries and keys read the constant alone, so
  their product depends on the distance alone (rotary positions), and is highest at 1. It writes a
  projection of that token's content into the slot.
- Block 1, head 0 matches: queries read the projection of the current token's content, keys the
  slot, so it attends to tokens that came after the same token. It copies their content, which the
  tied head turns into a prediction.
"""

import math

import torch
from torch import Tensor

from src.model.transformer.transformer import Transformer, TransformerConfig

EMBEDDING_STD = 0.02
# Share of the constant in an embedding's length: large enough to be read exactly by the first head,
# small enough to leave the second head's view to the content.
CONSTANT = 0.25
# Sum of products of the previous-token head at its peak, in nats a rotary frequency.
SHARPNESS = 36.0
# Strength of what the first head writes, of the second head's matches, and of what it copies; the
# best of a few trials each (dev/LOG.md).
WRITE, MATCH, COPY = 0.1, 4.0, 0.3
# Contents are compared at rotary frequencies that turn by less than 1.5 radians in 70 tokens; a
# match in the others would depend on the distance.
SLOWEST_TURN = 1.5 / 70
# The previous token is found at the three highest frequencies; lower ones blur neighbours.
FAST_PAIRS = 3


def _orthonormal_rows(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """(rows, columns) with rows <= columns."""
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator)).Q.T


def _frequencies(config: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Radians a token of each rotated pair of a head, and the dimensions that turn slowly."""
    half = config.n_embd // config.n_head // 2
    turn = config.rope_theta ** -(torch.arange(half) / half)
    slow = (turn < SLOWEST_TURN).nonzero().squeeze(1)
    return turn, torch.cat((slow, slow + half))


def has_room(config: TransformerConfig) -> bool:
    """Whether a shape can hold a copy head: two layers, a slow frequency, room for content."""
    slots = len(_frequencies(config)[1])
    return config.n_layer > 1 and slots > 0 and config.n_embd - 1 - slots >= slots + 1


@torch.no_grad()
def lay_out_copy_head(model: Transformer, seed: int = 0) -> None:
    """Overwrite the embedding and the first heads of blocks 0 and 1 as the module describes.
    The shape must have room for it (`has_room`).
    """
    config = model.config
    width, size = config.n_embd, config.n_embd // config.n_head
    half = size // 2
    turn, slow = _frequencies(config)
    slot_width = len(slow)
    content_width = width - 1 - slot_width
    content, slot = slice(1, 1 + content_width), slice(1 + content_width, width)
    generator = torch.Generator().manual_seed(seed)
    projection = _orthonormal_rows(slot_width, content_width, generator)

    embedding = model.embedding.weight
    length = EMBEDDING_STD * math.sqrt(content_width)
    embedding[:, 0] = 0
    embedding[:, slot] = 0
    embedding.mul_(length / embedding.norm(dim=1, keepdim=True))
    embedding[:, 0] = CONSTANT * length
    constant = math.sqrt(width * CONSTANT**2 / (1 + CONSTANT**2))  # what RMSNorm makes of it

    values = config.n_kv_head * size  # where a block's value rows begin
    head = slice(0, size)
    first, second = model.blocks[0], model.blocks[1]
    for block in (first, second):
        block.query.weight[head] = 0
        block.key_value.weight[head] = 0
        block.key_value.weight[values : values + size] = 0
        block.attention_out.weight[:, head] = 0

    # Rotated by t and s tokens, this query and this key have the product cos(turn * (t - s - 1)).
    fast = (torch.arange(half) < FAST_PAIRS).float() * math.sqrt(SHARPNESS * size**0.5) / constant
    first.query.weight[head, 0] = torch.cat((turn.cos() * fast, -turn.sin() * fast))
    first.key_value.weight[head, 0] = torch.cat((fast, torch.zeros(half)))
    first.key_value.weight[values : values + slot_width, content] = projection
    first.attention_out.weight[slot, :slot_width] = WRITE * torch.eye(slot_width)

    second.query.weight[slow, content] = MATCH * projection
    second.key_value.weight[slow, slot] = MATCH * torch.eye(slot_width)
    rank = min(size, content_width)
    copied = _orthonormal_rows(rank, content_width, generator)
    second.key_value.weight[values : values + rank, content] = copied
    second.attention_out.weight[content, :rank] = COPY * copied.T
