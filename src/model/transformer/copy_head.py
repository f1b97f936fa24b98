"""An initialisation in which a transformer from scratch already knows how to copy.

Reading comprehension needs an induction head (Olsson et al. 2022, 2209.11895): having written
"Voz", look for an earlier "Voz" and write what stood after it. From random weights that circuit
takes most of a short run to form, and until it has, nothing can be learnt about which words to
copy. So it is laid out by hand, and beside it a rough beginning of "which words": a head that
looks for places where the last few words are those of the question. Training goes on from there;
every weight stays free.

The residual stream of width D is divided at the start, for the embeddings only:

    [ constant | content: random, of equal length | previous: 0 | recent: 0 ]

- Block 0, heads 0 and 1 (the first two with keys of their own) find positions: their queries and
  keys read the constant alone, so their product depends on the distance alone (rotary positions).
  Head 0 attends to the previous token, head 1 to the last eight or so; each writes a projection of
  the content it sees into its slot.
- Block 1, head 0 copies: queries read the projection of the current token's content, keys the slot
  `previous`, so it attends to what came after the same token, and copies it.
- Block 2, head 1, where there is one, compares the slots `recent` of the two places, and copies.
"""

import math

import torch
from torch import Tensor

from src.model.transformer.block import Block, TransformerConfig
from src.model.transformer.transformer import Transformer

EMBEDDING_STD = 0.02
# Share of the constant in an embedding's length: large enough to be read exactly by the first head,
# small enough to leave the second head's view to the content.
CONSTANT = 0.25
# How far the previous token stands out, and how far the recent ones do, in nats a rotary frequency.
PREVIOUS_SHARPNESS, RECENT_SHARPNESS = 36.0, 6.0
# Rotary frequencies that find them, fastest first, and the distance that they find.
PREVIOUS_PAIRS, RECENT_PAIRS = (0, 1, 2), (3, 4)
PREVIOUS_DISTANCE, RECENT_DISTANCE = 1.0, 4.0
# Strength of what is written into a slot, of matches in block 1 and block 2, and of what is copied;
# the best of a few trials each (dev/LOG.md).
WRITE, MATCH, COMPARE, COPY = 0.1, 4.0, 2.0, 0.3
# Contents are compared at rotary frequencies that turn by less than 1.5 radians in 70 tokens; a
# match in the others would depend on the distance.
SLOWEST_TURN = 1.5 / 70


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
    """Whether a shape can hold a copy head: layers, heads, slow frequencies, room for content."""
    slots = 2 * len(_frequencies(config)[1])
    enough = config.n_layer > 1 and config.n_kv_head > 1 and slots > 0
    return enough and config.n_embd - 1 - slots > slots


def _clear(block: Block, head: int) -> tuple[slice, slice]:
    """Zero one head of a block, the first of its group; its key and value rows in `key_value`."""
    size, shared = block.head_size, head // block.groups
    keys = slice(shared * size, (shared + 1) * size)
    values = slice((block.kv_heads + shared) * size, (block.kv_heads + shared + 1) * size)
    rows = slice(head * size, (head + 1) * size)
    block.query.weight[rows] = 0
    block.key_value.weight[keys] = 0
    block.key_value.weight[values] = 0
    block.attention_out.weight[:, rows] = 0
    return keys, values


def _find_position(
    block: Block, head: int, turn: Tensor, pairs: tuple[int, ...], distance: float, strength: float
) -> int:
    """Make a head attend `distance` tokens back; returns where its value rows begin.

    Rotated by t and s tokens, query and key have the product cos(turn * (t - s - distance)).
    """
    keys, values = _clear(block, head)
    on = torch.zeros_like(turn)
    on[[pair for pair in pairs if pair < len(turn)]] = strength
    angle = turn * distance
    rows = slice(head * block.head_size, (head + 1) * block.head_size)
    block.query.weight[rows, 0] = torch.cat((angle.cos() * on, -angle.sin() * on))
    block.key_value.weight[keys, 0] = torch.cat((on, torch.zeros_like(on)))
    return values.start


def _match_and_copy(
    block: Block, head: int, slow: Tensor, query: Tensor, key: Tensor, copied: Tensor
) -> None:
    """Make a head attend where `key` of there equals `query` of here, and write `copied` of there.

    query, key: (slow dimensions, D) read-outs of the stream; copied: (rank, D) orthonormal rows.
    """
    keys, values = _clear(block, head)
    start = head * block.head_size
    block.query.weight[start + slow] = query
    block.key_value.weight[keys.start + slow] = key
    block.key_value.weight[values.start : values.start + len(copied)] = copied
    block.attention_out.weight[:, start : start + len(copied)] = COPY * copied.T


@torch.no_grad()
def lay_out_copy_head(model: Transformer, seed: int = 0) -> None:
    """Overwrite the embedding and a head or two of the first blocks as the module describes.

    The shape must have room for it (`has_room`).
    """
    config, blocks = model.config, model.blocks
    width, size = config.n_embd, config.n_embd // config.n_head
    turn, slow = _frequencies(config)
    slot = len(slow)
    content_width = width - 1 - 2 * slot
    content = slice(1, 1 + content_width)
    previous, recent = torch.arange(1 + content_width, width).split(slot)
    generator = torch.Generator().manual_seed(seed)

    embedding = model.embedding.weight
    length = EMBEDDING_STD * math.sqrt(content_width)
    embedding[:, 0] = 0
    embedding[:, content.stop :] = 0
    embedding.mul_(length / embedding.norm(dim=1, keepdim=True))
    embedding[:, 0] = CONSTANT * length
    constant = math.sqrt(width * CONSTANT**2 / (1 + CONSTANT**2))  # what RMSNorm makes of it

    def reading(matrix: Tensor, columns: slice | Tensor) -> Tensor:
        """The matrix as a read-out of some dimensions of the stream."""
        out = torch.zeros(len(matrix), width)
        out[:, columns] = matrix
        return out

    projections = [_orthonormal_rows(slot, content_width, generator) for _ in range(2)]
    found = (
        (PREVIOUS_PAIRS, PREVIOUS_DISTANCE, PREVIOUS_SHARPNESS, previous),
        (RECENT_PAIRS, RECENT_DISTANCE, RECENT_SHARPNESS, recent),
    )
    groups = blocks[0].groups  # with grouped queries, two heads with keys of their own
    for number, (pairs, distance, sharpness, dimensions) in enumerate(found):
        head = number * groups
        strength = math.sqrt(sharpness * size**0.5) / constant
        rows = _find_position(blocks[0], head, turn, pairs, distance, strength)
        blocks[0].key_value.weight[rows : rows + slot, content] = projections[number]
        start = head * size
        blocks[0].attention_out.weight[dimensions, start : start + slot] = WRITE * torch.eye(slot)

    rank = min(size, content_width)
    one = torch.eye(slot)
    copied = reading(_orthonormal_rows(rank, content_width, generator), content)
    query = MATCH * reading(projections[0], content)
    _match_and_copy(blocks[1], 0, slow, query, MATCH * reading(one, previous), copied)
    if len(blocks) > 2:
        copied = reading(_orthonormal_rows(rank, content_width, generator), content)
        compared = COMPARE * reading(one, recent)
        _match_and_copy(blocks[2], groups, slow, compared, compared, copied)
