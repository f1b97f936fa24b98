"""What the policy itself answers: rejected answers of the kind `sampled`."""

import time
from collections.abc import Sequence

import torch
from torch import nn

from src.data.encoding import EncodedParagraph
from src.data.squad_dataset import evaluate_on
from src.data.tokenizers.tokenizer import Tokenizer
from src.data.windows import EOS_TOKENS, Place
from src.inference.sampling import PromptTree, Sampling, generate_all
from src.training.distributed import map_over_ranks, rank_partition
from src.utils.checkpoint_utils import kept_on_disk
from src.utils.payload import weights_hash
from src.utils.progress_bar import say

CACHE_DIR = ".cache/sampled"
# Answers per question, at temperature 1: they are wrong more often than the most probable answer.
SAMPLES = 1


def sampled_answers(
    policy: nn.Module,
    encoded: Sequence[EncodedParagraph],
    tokenizer: Tokenizer,
    block_size: int,
    *,
    max_new_tokens: int,
    seed: int,
) -> dict[Place, list[str]]:
    """Different answers by (paragraph, question), right ones among them, SAMPLES at most.

    max_new_tokens: tokens of an answer, EOS included. Cached on disk under a hash of all that they
    depend on, the precision too; a damaged file is made anew, a folder that cannot be written is
    ignored.
    """
    started = time.perf_counter()
    evaluation = evaluate_on(
        encoded, block_size=block_size, answer_budget=max_new_tokens + EOS_TOKENS
    )
    prompts = [(context, [q for q, _ in below]) for context, below in evaluation.trees]
    asked_before = sum(len(qs) for _, qs in prompts[: rank_partition(prompts).start])
    # Its kind, without a number: each rank has a GPU of its own, and all read one file.
    kind = policy.embedding.weight.device.type
    precision = kind, torch.is_autocast_enabled(kind)
    depends_on = weights_hash(policy), *precision, prompts, max_new_tokens, seed

    def answers_of(mine: Sequence[PromptTree]) -> list[str]:
        found = generate_all(
            policy, mine, tokenizer.eos_id, sampling=Sampling(1.0), num_samples=SAMPLES,
            max_new_tokens=max_new_tokens, seed=seed, first_row=SAMPLES * asked_before,
        )
        return [tokenizer.decode(ids).strip() for ids in found]

    places = [place for row in evaluation.index for place in row]
    texts = kept_on_disk(
        CACHE_DIR, repr(depends_on),
        lambda found: isinstance(found, list) and len(found) == SAMPLES * len(places),
        lambda: [text for part in map_over_ranks(policy, prompts, answers_of) for text in part],
    )
    seconds = time.perf_counter() - started
    say(f"{len(texts)} answers sampled to {len(places)} questions: {seconds:.1f} s")
    return {
        place: sorted(set(texts[SAMPLES * n : SAMPLES * (n + 1)])) for n, place in enumerate(places)
    }
