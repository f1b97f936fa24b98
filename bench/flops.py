"""Useful floating-point operations: each token once, no padding, no unused results.

A product (m, k) x (k, n) counts 2 m k n. Elementwise work, norms and softmax count nothing. Work
that is not needed is not counted, even if it is done. In the last block, tokens whose output nobody
reads need only keys and values. Logits are needed only at answer positions.
"""

from collections.abc import Sequence

from src.data.windows import Tree
from src.inference.logprobs import TreeBatch
from src.model.prefix_sharing.packing import pack
from src.model.transformer.transformer import TransformerConfig

# The gradient of a product is two products of the same size.
BACKWARD = 2


def forward_flops(
    config: TransformerConfig, trees: Sequence[Tree], wanted: str = "logits"
) -> int:
    """Operations to read every answer of the trees and its EOS. wanted: "logits" at each
    position, "values" there (EOS itself is not read in either), or a "reward" at EOS.
    """
    width, layers = config.n_embd, config.n_layer
    queries = config.n_head * config.head_size
    keys_values = 2 * width * 2 * config.n_kv_head * config.head_size
    block = keys_values + 2 * width * (2 * queries + 3 * config.n_inner)

    def read(start: int, tokens: int, read_by_someone: bool) -> int:
        """Tokens after `start` others; the last block whole only where its output is read."""
        pairs = tokens * start + tokens * (tokens + 1) // 2  # of a query and a key it sees
        whole = layers - 1 + read_by_someone
        return whole * (tokens * block + 4 * queries * pairs) + (layers - whole) * (
            tokens * keys_values
        )

    total = 0
    for context, questions in trees:
        total += read(0, len(context), False)
        for question, answers in questions:
            total += read(len(context), len(question) - 1, False)
            prompt = len(context) + len(question) - 1
            for answer in answers:
                # A completion reads the last prompt token and the answer; each predicts a token.
                positions = len(answer) + 1
                total += read(prompt, positions, wanted != "reward")
                if wanted == "reward":
                    total += read(prompt + positions, 1, True)
                if wanted == "logits":
                    total += positions * 2 * width * config.vocab_size
    return total


def step_flops(
    config: TransformerConfig, stage: str, trees: Sequence[Tree], tokens: int, samples: int = 1
) -> int:
    """Operations of one step of a stage of vs_trl.py; tokens: of a generated answer; samples:
    answers that PPO samples to a question.
    """
    own = {"ppo": [[0] * (tokens - 1)] * samples, "generate": [[0] * (tokens - 1)]}.get(stage)
    if own or stage == "sft":  # answers of its own, or the chosen one
        trees = [
            (context, [(q, own or answers[:1]) for q, answers in questions])
            for context, questions in trees
        ]
    logits, values, reward = (
        forward_flops(config, trees, wanted) for wanted in ("logits", "values", "reward")
    )
    step = 1 + BACKWARD
    return {
        "sft": step * logits,
        "dpo": (step + 1) * logits,  # and the reference
        "reward": step * reward,
        "generate": logits,
        # Sampling and the reference; reward model and critic; four epochs of policy and critic.
        "ppo": 2 * logits + reward + values + 4 * step * (logits + values),
    }[stage]


def masked_share(tree_batch: TreeBatch) -> float:
    """Share of the scores of a layer's attention that are worked out and masked; nothing is padded.
    """
    parts = pack(tree_batch.levels(), "last level").attention
    worked_out = masked = 0
    for part in (*parts.above, *parts.below):
        queries, keys = (s.stop - s.start for s in (part.queries, part.keys))
        worked_out += queries * keys
        if part.causal:  # of the keys' own tokens, those that come later
            masked += keys * (keys - 1) // 2
        elif part.shown is not None:
            masked += int(part.shown.isneginf().sum())
    return masked / worked_out
