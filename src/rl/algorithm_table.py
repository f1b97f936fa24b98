"""The algorithms of train_ppo.py as two tables of choices, and the row that its flags ask for.

`ALGORITHMS` are policy gradients. A row says which advantage and which ratio are used, what is
clipped, over what the mean is taken, and where the KL to the reference goes. A value of a row is
looked up in src/rl/algorithms.py, and nothing branches on a row's name. So a new algorithm is a new
row, and a choice can be changed alone:

    ALGORITHMS["grpo"]._replace(mean="tokens")        # train_ppo.py --algorithm grpo --mean tokens

`SELECTIONS` learn from chosen answers, not from advantages. A row says how answers are chosen by
their reward, and which loss follows. Imports nothing heavy, so that `--help` answers at once.
"""

import argparse
from typing import Literal, NamedTuple, get_args

from src.utils.errors import UserError


class Algorithm(NamedTuple):
    """One row. `advantages_of`, `policy_loss` and `losses.reduce_tokens` read them.

    advantage: gae (a critic, whitened over the batch), leave_one_out, group, group_no_std,
        batch_mean (the batch's mean is the baseline).
    ratio: token or sequence, see `losses.clipped_policy_loss`.
    clip: both (the same range on both sides), higher (a wider one above), weight (CISPO: the weight
        is clipped, not the gradient), none (REINFORCE: on-policy, nothing to clip).
    mean: tokens, answers, or constant (sums divided by `length`, then the mean over answers).
    kl_in: reward (of each token, `losses.kl_penalised_rewards`) or loss (`losses.kl_loss`).
    kl_estimator: k1, k2, k3. Only k1 in the reward and k2 in the loss push KL(policy || reference).
    clip_low, clip_high: the ratio's range is 1 - clip_low to 1 + clip_high; `weight` has no lower
        end, and `none` only reports the share outside.
    kl_coef: reward, or loss, per nat of KL. This and the ranges are defaults that flags may
        replace.
    length: tokens. None: a run sets it to its longest answer.
    """

    advantage: Literal["gae", "leave_one_out", "group", "group_no_std", "batch_mean"]
    ratio: Literal["token", "sequence"]
    clip: Literal["both", "higher", "weight", "none"]
    mean: Literal["tokens", "answers", "constant"]
    kl_in: Literal["reward", "loss"]
    kl_estimator: Literal["k1", "k2", "k3"]
    clip_low: float
    clip_high: float
    kl_coef: float
    length: int | None = None

    @property
    def has_critic(self) -> bool:
        """Whether values are learnt beside the policy."""
        return self.advantage == "gae"

    @property
    def on_policy(self) -> bool:
        """Whether the gradient holds for fresh samples only: one pass, one update a batch."""
        return self.clip == "none"

    @property
    def fewest_samples(self) -> int:
        """Samples a question needs for its advantages to be other than 0."""
        return 2 if self.advantage in ("leave_one_out", "group", "group_no_std") else 1


ALGORITHMS = {
    # 1707.06347 with the k1 penalty of InstructGPT (2203.02155 sect. 3.5, there 0.02 a nat).
    "ppo": Algorithm("gae", "token", "both", "tokens", "reward", "k1", 0.2, 0.2, 0.05),
    # 2402.14740: the leave-one-out baseline. The paper takes one on-policy step and sums an
    # answer's log-prob; here PPO's clip allows several, token by token.
    "rloo": Algorithm("leave_one_out", "token", "both", "tokens", "reward", "k1", 0.2, 0.2, 0.05),
    # Williams 1992: sums over an answer's tokens, divided by nothing but the number of answers.
    "reinforce": Algorithm(
        "batch_mean", "token", "none", "constant", "reward", "k1", 0.2, 0.2, 0.05, length=1
    ),
    # 2402.03300 eq. 3 and 4, KL 0.04 in sect. 4.2; the range is not stated, PPO's is meant.
    "grpo": Algorithm("group", "token", "both", "answers", "loss", "k3", 0.2, 0.2, 0.04),
    # 2503.20783 sect. 3.2: neither standard deviation nor answer length, no KL. The constant is the
    # token budget of an answer, as in the paper's listing; the range is not stated.
    "dr_grpo": Algorithm("group_no_std", "token", "both", "constant", "loss", "k3", 0.2, 0.2, 0.0),
    # 2503.14476 eq. 8: ranges of sect. 4.1, no KL (sect. 2.3). Its dynamic sampling and its penalty
    # of overlong answers are choices of the rollout, not of the loss.
    "dapo": Algorithm("group", "token", "higher", "tokens", "loss", "k3", 0.2, 0.28, 0.0),
    # 2507.18071 eq. 5, ranges of sect. 5.1; the KL term is left out there.
    "gspo": Algorithm("group", "sequence", "higher", "answers", "loss", "k3", 3e-4, 4e-4, 0.0),
    # 2506.13585 eq. 4 and 5, no KL. The paper does not print its upper end: a weight of 5 at most
    # is this project's choice.
    "cispo": Algorithm("group", "token", "weight", "tokens", "loss", "k3", 0.0, 4.0, 0.0),
}


class Selection(NamedTuple):
    """One row of the algorithms that learn from the best of a question's own samples.

    choose: best (one answer a question), or best_and_worst (a pair, or none if all rewards are
        equal).
    loss: sft (raises the log-prob of the chosen answer), or dpo (against the policy that training
        started from, with --beta).
    Only the reward chooses. There is no KL coefficient; the number of samples plays its part.
    """

    choose: Literal["best", "best_and_worst"]
    loss: Literal["sft", "dpo"]

    has_critic = False
    on_policy = False
    fewest_samples = 2
    kl_estimator = "k1"  # nothing multiplies it


SELECTIONS = {
    # 2304.06767 algorithm 1: the best of each prompt's samples goes into the next round of SFT.
    "raft": Selection("best", "sft"),
    # 2402.04792: a pair of the policy's own samples is labelled at once (there by a language model,
    # here by the reward) and goes into DPO. The reference stays the SFT model.
    "online_dpo": Selection("best_and_worst", "dpo"),
}

ROWS: dict[str, Algorithm | Selection] = {**ALGORITHMS, **SELECTIONS}
# Flags of train_ppo.py that replace a row's choice.
CHOICES = ("advantage", "ratio", "clip", "mean", "kl_in", "kl_estimator", "clip_low", "clip_high")


def values_of(choice: str) -> tuple[str, ...]:
    """The values that a choice of a row may have.

    >>> values_of("kl_in")
    ('reward', 'loss')
    """
    return get_args(Algorithm.__annotations__[choice])


def _given(*values: float | None) -> float:
    """The first that is not None."""
    return next(value for value in values if value is not None)


def row_of(args: argparse.Namespace) -> Algorithm | Selection:
    """The row that train_ppo.py's flags ask for: --algorithm's, with the choices that were given.

    Raises UserError for choices that mean nothing together.
    """
    row = ROWS[args.algorithm]
    if isinstance(row, Selection):
        return _selection(row, args)
    chosen = row._replace(
        advantage=args.advantage or row.advantage,
        ratio=args.ratio or row.ratio,
        clip=args.clip or row.clip,
        mean=args.mean or row.mean,
        kl_in=args.kl_in or row.kl_in,
        kl_estimator=args.kl_estimator or row.kl_estimator,
        clip_low=_given(args.clip_low, args.clip_range, row.clip_low),
        clip_high=_given(args.clip_high, args.clip_range, row.clip_high),
        kl_coef=_given(args.kl_coef, row.kl_coef),
    )
    _refuse_meaningless(chosen, row, args)
    return chosen


def _selection(row: Selection, args: argparse.Namespace) -> Selection:
    for name in (*CHOICES, "clip_range", "kl_coef", "kl_target"):
        if getattr(args, name) is not None:
            raise UserError(
                f"--{name} given with {args.algorithm}, which learns from chosen answers, not from "
                "advantages, expected it left out"
            )
    if args.beta is not None and row.loss != "dpo":
        raise UserError(f"--beta given with {args.algorithm}, which has no reference, expected it "
                        "left out")
    return row


def _refuse_meaningless(a: Algorithm, row: Algorithm, args: argparse.Namespace) -> None:
    """UserError for choices that mean nothing together. row: that of --algorithm."""
    ends = f"{a.clip_low:g} below and {a.clip_high:g} above"
    low, high = a.clip_low != row.clip_low, a.clip_high != row.clip_high
    moved = "clip_range" if args.clip_range is not None else "clip_low" if low else "clip_high"
    who = args.algorithm if args.clip is None else "--clip none"
    coefless = a.kl_coef == 0 and (a.kl_in, a.kl_estimator) != (row.kl_in, row.kl_estimator)
    for wrong, what in (
        (args.beta is not None, f"--beta given with {args.algorithm}, which compares no pair, "
         "expected it left out"),
        (args.clip_range not in (None, a.clip_low) or args.clip_range not in (None, a.clip_high),
         "--clip_range given beside --clip_low or --clip_high, expected one of the two ways"),
        (a.clip == "none" and (low or high),
         f"--{moved} given with {who}, which clips nothing, expected it left out"),
        (a.clip in ("none", "weight") and a.ratio == "sequence",
         f"--ratio sequence given with --clip {a.clip}, which takes each token's, expected token"),
        (a.clip == "weight" and low,
         f"--{moved} given with --clip weight, which has no lower end, expected --clip_high"),
        (a.clip == "both" and a.clip_low != a.clip_high,
         f"--clip both given with a range of {ends}, expected equal ends (--clip_range) or --clip "
         "higher"),
        (a.clip == "higher" and a.clip_low >= a.clip_high,
         f"--clip higher given with a range of {ends}, expected a --clip_high above --clip_low"),
        (a.clip in ("both", "higher") and a.clip_low >= 1,
         f"--{moved} {a.clip_low:g} given, expected below 1: a ratio is never below 0"),
        (coefless, f"--kl_{'in' if a.kl_in != row.kl_in else 'estimator'} given with a coefficient "
         "of 0, expected --kl_coef above 0"),
        (args.kl_target is not None and a.kl_coef == 0,
         "--kl_target given with a coefficient of 0, which no factor changes, expected --kl_coef "
         "above 0"),
    ):
        if wrong:
            raise UserError(what)


def fill_choices(args: argparse.Namespace, row: Algorithm | Selection) -> None:
    """Set the flags that were left out to what the row says, so that a run stores them."""
    if isinstance(row, Algorithm):
        args.kl_coef = row.kl_coef
        vars(args).update({name: getattr(row, name) for name in CHOICES})
    elif row.loss == "dpo" and args.beta is None:
        args.beta = 0.1
