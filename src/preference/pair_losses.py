"""The loss of pairs that --loss_type names, for training and for held-out pairs alike."""

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from src.data.windows import Tree
from src.losses import DpoLoss, dpo_loss, kto_loss, orpo_loss, simpo_loss
from src.preference.loss_table import PREFERENCE_LOSSES
from src.preference.pair_batches import PairTrees


def _of_gap(compared: Sequence[Tensor], args: argparse.Namespace, kl: float, count) -> DpoLoss:
    """The losses of the gap h, which `losses.dpo_loss` has by name."""
    return dpo_loss(*compared, args.beta, args.label_smoothing, args.loss_type, count=count)


# --loss_type -> its formula. What is compared is (policy's chosen, rejected, reference's chosen,
# rejected), sums of log-probs, or (chosen, rejected), means per token, as the row's `of` says.
FORMULAS: dict[str, Callable[..., DpoLoss]] = {
    "sigmoid": _of_gap,
    "ipo": _of_gap,
    "hinge": _of_gap,
    "kto": lambda compared, args, kl, count: kto_loss(*compared, kl, args.beta, count=count),
    "orpo": lambda compared, args, kl, count: orpo_loss(*compared, count=count),
    "simpo": lambda compared, args, kl, count: simpo_loss(
        *compared, args.beta, args.gamma, count=count
    ),
    # Only to be logged: `pair_weight` leaves it out of the loss.
    "nll": lambda compared, args, kl, count: dpo_loss(*compared, args.beta, count=count),
}


def pair_loss(
    args: argparse.Namespace, policy: Tensor, tokens: Tensor, reference: Tensor | None,
    kl: float = 0.0, count: int | None = None,
) -> DpoLoss:
    """The loss of --loss_type, alone: without its weight and without the NLL term.

    policy, reference: (B, 2) sums of log-probs in nats of [chosen, rejected]; tokens: (B, 2) their
    tokens, EOS included. reference: None where the loss has none. kl: of kto, in nats an answer.
    count: pairs to divide by.
    """
    row = PREFERENCE_LOSSES[args.loss_type]
    compared = (*policy.T, *reference.T) if row.of == "sums" else (policy / tokens).T
    return FORMULAS[args.loss_type](compared, args, kl, count)


def pair_weight(args: argparse.Namespace) -> float:
    """What `pair_loss` is multiplied by in the whole loss; orpo's beta is a weight (its lambda)."""
    return {"orpo": args.beta, "nll": 0.0}.get(args.loss_type, 1.0)


def answer_tokens(trees: Sequence[Tree]) -> Tensor:
    """(P, 2) tokens, EOS included, of the [chosen, rejected] answers of the trees, third ones left
    out.
    """
    answers = (its[: len(its) - len(its) % 2] for _, qs in trees for _, its in qs)
    counts = [len(answer) + 1 for pair in answers for answer in pair]
    return torch.tensor(counts).view(-1, 2)


def with_mismatched(pair_trees: PairTrees) -> PairTrees:
    """The trees with one question for each pair. The question has a third answer that does not
    belong to it: the chosen answer of the next pair with another prompt (after the last pair comes
    the first). This answer is cut to the length of the longer one of the pair's own, for which the
    window has room. Where all pairs have the same prompt, it is the first pair's.
    """
    alone = [
        (context, [(q, answers[i : i + 2]) for q, answers in qs for i in range(0, len(answers), 2)])
        for context, qs in pair_trees.trees
    ]
    chosen = [answers[0] for _, qs in alone for _, answers in qs]
    prompts = [(context, q) for context, qs in alone for q, _ in qs]
    following = [0] * len(prompts)
    for n in reversed(range(2 * len(prompts))):  # twice: the last pairs look beyond the end
        here, after = n % len(prompts), (n + 1) % len(prompts)
        following[here] = after if prompts[after] != prompts[here] else following[after]
    others = (chosen[n] for n in following)
    trees = [
        (context, [(q, [*answers, next(others)[: max(map(len, answers))]]) for q, answers in qs])
        for context, qs in alone
    ]
    return pair_trees._replace(trees=trees)


def without_mismatched(trees: Sequence[Tree]) -> tuple[list[Tree], list[Tree]]:
    """The trees of `with_mismatched` as they were, and the same with the third answers alone."""
    pairs = [(c, [(q, answers[:2]) for q, answers in qs]) for c, qs in trees]
    return pairs, [(c, [(q, answers[2:]) for q, answers in qs]) for c, qs in trees]
