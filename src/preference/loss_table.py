"""The losses of train_dpo.py as a table, and the flags that each takes. Imports nothing heavy.

src/preference/pair_losses.py has the formula of each row.
"""

import argparse
from typing import Literal, NamedTuple

from src.utils.errors import UserError


class PreferenceLoss(NamedTuple):
    """One row.

    of: sums of log-probs minus those of the frozen reference, or means per token without one.
    beta, gamma, nll_weight: defaults of the flags; None: the loss has no such number.
    mismatched: its KL is estimated from answers to other questions.
    """

    of: Literal["sums", "means"]
    beta: float
    gamma: float | None = None
    nll_weight: float = 0.0
    mismatched: bool = False

    @property
    def has_reference(self) -> bool:
        """Whether it compares with the model that training starts from."""
        return self.of == "sums"


PREFERENCE_LOSSES = {
    # 2305.18290 eq. 7. Only it has label smoothing. The paper's beta is 0.1 (sect. 6), for answers
    # of many tokens. For answers of a few it makes the chosen ones less probable too, and EM
    # falls (dev/LOG.md). --nll_weight 1 adds 2404.19733 eq. 2.
    "sigmoid": PreferenceLoss("sums", 1.0),
    # 2310.12036 eq. 17; beta is its tau.
    "ipo": PreferenceLoss("sums", 0.1),
    # 2305.10425 eq. 1, relative to the reference: no push once the gap is 1 / beta nats.
    "hinge": PreferenceLoss("sums", 1.0),
    # 2402.01306 eq. 8, beta 0.1 in sect. 4.
    "kto": PreferenceLoss("sums", 0.1, mismatched=True),
    # 2403.07691 eq. 6: the NLL of the chosen answer plus beta (its lambda, 0.1) times the odds
    # ratio's term.
    "orpo": PreferenceLoss("means", 0.1, nll_weight=1.0),
    # 2405.14734: beta 2 to 2.5, gamma 0.3 to 1.6 in its table of best values.
    "simpo": PreferenceLoss("means", 2.0, gamma=1.0),
    # A control: the NLL of the chosen answers alone. The rejected answers are not used. The pairs
    # are scored, as by sigmoid, but only for the log.
    "nll": PreferenceLoss("sums", 1.0, nll_weight=1.0),
}


def fill_loss_flags(args: argparse.Namespace) -> PreferenceLoss:
    """Set the flags that were left out to the values of --loss_type's row, and return the row.

    Raises UserError for flags that mean nothing with it.
    """
    row, name = PREFERENCE_LOSSES[args.loss_type], args.loss_type
    if args.label_smoothing and name != "sigmoid":
        raise UserError(
            f"--label_smoothing {args.label_smoothing} given with --loss_type {name}, expected 0: "
            f"the {name} loss has no smoothing, use --loss_type sigmoid"
        )
    if args.gamma is not None and row.gamma is None:
        raise UserError(
            f"--gamma {args.gamma} given with --loss_type {name}, which has no margin, expected it "
            "left out: it is simpo's"
        )
    if name == "nll":
        for flag in ("beta", "nll_weight"):
            if getattr(args, flag) not in (None, getattr(row, flag)):
                raise UserError(
                    f"--{flag} {getattr(args, flag)} given with --loss_type nll, which has one "
                    "term and compares no pair, expected it left out"
                )
    for flag in ("beta", "gamma", "nll_weight"):
        if getattr(args, flag) is None:
            setattr(args, flag, getattr(row, flag))
    return row
