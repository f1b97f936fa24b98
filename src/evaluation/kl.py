"""The KL of a policy from its parent, and its entropy, estimated from samples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from src.inference.logprobs import completion_logps
from src.inference.sampling import PromptTree, Sampling, generate_all, with_answers
from src.losses import kl_estimates


class SampleFigures(NamedTuple):
    """Of one sample a question at temperature 1, (Q,) each: KL from the parent and -log p in nats
    an answer (the latter has the entropy as its mean), and tokens, EOS included where it was drawn.
    """

    kl_nats: np.ndarray
    entropy_nats: np.ndarray
    tokens: np.ndarray


def sample_figures(
    model: nn.Module, parent: nn.Module, prompts: Sequence[PromptTree], eos_id: int, *,
    max_new_tokens: int, first_row: int = 0,
) -> SampleFigures:
    """KL from the parent as the summed k1 of one sample a question, its -log p and its tokens.

    A sample that was cut off at max_new_tokens counts without EOS, because the policy did not draw
    it. A term that is not drawn from the policy can make the mean negative.
    first_row: how many questions other ranks have before these, so that all draw from one stream.
    """
    drawn = generate_all(
        model, prompts, eos_id, sampling=Sampling(), first_row=first_row,
        max_new_tokens=max_new_tokens,
    )
    trees = with_answers(prompts, drawn)
    logp, parent_logp = (
        completion_logps(m, trees, eos_id, first=max_new_tokens) for m in (model, parent)
    )
    tokens = np.array([min(len(row) + 1, max_new_tokens) for row in drawn])
    return SampleFigures(kl_estimates(logp, parent_logp).k1.numpy(), -logp.numpy(), tokens)
