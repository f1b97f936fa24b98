"""Useful floating-point operations: each token once, no padding, nothing that nobody reads.

A product (m, k) x (k, n) counts 2 m k n; elementwise work, norms and softmax count nothing. What is
not needed is not counted, whether it is done or not: in the last block a prefix needs its keys and
values only, and logits are needed at answer positions only.
"""

from collections.abc import Sequence

from src.model.transformer.packing import pack
from src.model.transformer.transformer import TransformerConfig
from src.scoring import Forest, Tree

# The gradient of a product is two products of the same size.
BACKWARD = 2


def forward_flops(config: TransformerConfig, trees: Sequence[Tree]) -> int:
    """Operations to score every answer of the trees, stop tokens included."""
    width, layers = config.n_embd, config.n_layer
    keys_values = 2 * width * 2 * config.n_kv_head * (width // config.n_head)
    block = keys_values + 2 * width * (2 * width + 3 * config.n_inner)

    def read(start: int, tokens: int, read_by_someone: bool) -> int:
        """Tokens after `start` others; the last block whole only where its output is read."""
        pairs = tokens * start + tokens * (tokens + 1) // 2  # of a query and a key it sees
        whole = layers - 1 + read_by_someone
        return whole * (tokens * block + 4 * width * pairs) + (layers - whole) * (
            tokens * keys_values
        )

    total = 0
    for context, questions in trees:
        total += read(0, len(context), False)
        for question, answers in questions:
            total += read(len(context), len(question) - 1, False)
            prompt = len(context) + len(question) - 1
            for answer in answers:
                # A leaf reads the last prompt token and the answer; each predicts a token.
                total += read(prompt, len(answer) + 1, True)
                total += (len(answer) + 1) * 2 * width * config.vocab_size
    return total


def padded_share(forest: Forest) -> float:
    """Share of the places of attention's rows that hold no token; all else has no padding."""
    packed = pack(forest.levels(), last_only=True)
    return 1 - len(packed.tokens) / (len(forest.contexts.lengths) * packed.keys.width)
