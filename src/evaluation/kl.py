"""The KL of a policy from its parent, estimated from samples."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from src.inference.logprobs import completion_logps
from src.inference.sampling import PromptTree, Sampling, generate_all
from src.losses import kl_estimates


def kl_of_samples(
    model: nn.Module, parent: nn.Module, prompts: Sequence[PromptTree], eos_id: int, *,
    seed: int = 0, first_row: int = 0, max_new_tokens: int = 24, device: torch.device | str = "cpu",
) -> np.ndarray:
    """KL from the parent, one estimate a question (Q,): summed k1 of one sample at temperature 1.

    A sample that was cut off at max_new_tokens counts without EOS, which the policy did not draw: a
    term that is not drawn from the policy can make the mean negative. first_row: how many questions
    other ranks have before these, so that all draw from one stream.
    """
    ids = iter(
        generate_all(
            model, prompts, eos_id, sampling=Sampling(), seed=seed, first_row=first_row,
            max_new_tokens=max_new_tokens, device=device,
        )
    )  # fmt: skip
    trees = [(context, [(q, [next(ids)]) for q in questions]) for context, questions in prompts]
    logp, parent_logp = (
        completion_logps(m, trees, eos_id, device, first=max_new_tokens) for m in (model, parent)
    )
    return kl_estimates(logp, parent_logp).k1.numpy()
