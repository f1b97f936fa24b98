"""What PPO optimises: the reward model's score, the metric itself, a function of yours, or a
weighted sum of several.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from src.data.tokenizers.tokenizer import Tokenizer
from src.data.windows import Tree
from src.evaluation.squad_metrics import QAExample, exact_match, f1_score
from src.evaluation.user_functions import Function, call_function, load_function
from src.inference.logprobs import build_tree_batch, for_all_completions, raw_reward
from src.model.heads import RewardModel
from src.utils.errors import UserError

# The reward model's score, in a list of rewards.
MODEL = "model"


class Term(NamedTuple):
    """One reward of `--reward`, with its weight in the sum."""

    name: str
    weight: float


def parse_rewards(text: str) -> list[Term]:
    """`--reward` as terms: a name, or name=weight,...; a name without a weight has 1.

    >>> parse_rewards("model=1,style:short=0.2")
    [Term(name='model', weight=1.0), Term(name='style:short', weight=0.2)]
    """
    terms: list[Term] = []
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(number) if equals else 1.0
        except ValueError:
            weight = math.nan
        known = name in {term.name for term in terms}
        if not name or known or not math.isfinite(weight) or not weight:
            raise UserError(
                f"--reward {text} given, with {part!r}, expected each reward once, with a weight "
                "other than 0, as in model=1,module:function=0.2"
            )
        terms.append(Term(name, weight))
    return terms


def uses_model(text: str) -> bool:
    """Whether `--reward` has the reward model among its terms."""
    return any(term.name == MODEL for term in parse_rewards(text))


def noise_reward(
    prediction: str, golds: Sequence[str], context: str, question: str, *, seed: int
) -> float:
    """A negative control: a reward without a learnable signal.

    It is a draw from the standard normal distribution, because a reward model's scores have mean 0
    and standard deviation 1. It is a pure function of seed, context, question and answer.
    """
    text = "\0".join((str(seed), context, question, prediction))
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6])
    return NormalDist().inv_cdf((number + 0.5) / 2**48)


def reward_function(name: str, metric: str = "squad", seed: int = 0) -> Function:
    """The function behind `--reward f1|em|noise|module:function`; UserError when there is none.

    metric: how f1 and em compare answers. seed: of noise.
    """
    if name == "noise":
        return partial(noise_reward, seed=seed)
    if name == "f1":
        return lambda prediction, golds, context, question: f1_score(prediction, golds, metric)
    if name == "em":
        return lambda prediction, golds, context, question: exact_match(prediction, golds, metric)
    return load_function(name, "--reward", "model, f1, em, noise or module:function")


def function_rewards(
    function: Function, predictions: Sequence[str], examples: Sequence[QAExample]
) -> dict[str, Tensor]:
    """Under "reward" the rewards (N,), float32, of predictions, each given with its question. Under
    other names what else the function returns for the log.

    Raises UserError when the function fails or returns something that is no finite number.
    """
    found = call_function(function, predictions, examples, "reward")
    return {name: torch.tensor(values) for name, values in found.items()}


def model_rewards(
    reward: RewardModel,
    trees: Sequence[Tree],
    eos_id: int,
    *,
    raw: bool = False,
) -> Tensor:
    """Normalised (or raw) scores (N,) of every answer of the trees, read at the EOS after it.

    An answer that was cut off is scored as if EOS followed.
    """

    def of_batch(batch: Sequence[Tree]) -> Tensor:
        tree_batch = build_tree_batch(batch, eos_id, reads_eos=True)
        scores = raw_reward(reward, tree_batch)
        return scores if raw else reward.normalise(scores)

    with torch.inference_mode():
        return for_all_completions(trees, of_batch)


class Scores(NamedTuple):
    """reward: (N,) on the CPU, of every answer. parts: what to log beside it, name -> values (N,):
    each reward of a sum, unweighted, and the parts that functions return.
    """

    reward: Tensor
    parts: dict[str, Tensor]


# Trees with answers, and their questions in order -> the answers' scores.
RewardOf = Callable[[Sequence[Tree], Sequence[QAExample]], Scores]


def make_reward(
    name: str,
    reward: RewardModel | None,
    tokenizer: Tokenizer,
    metric: str = "squad",
    seed: int = 0,
) -> RewardOf:
    """The weighted sum of rewards that `--reward name` asks for.

    reward: the model for `model`, else None. metric: how f1 and em compare answers. seed: of noise.
    """
    terms = parse_rewards(name)
    functions = {
        term.name: reward_function(term.name, metric, seed) for term in terms if term.name != MODEL
    }

    def reward_of(trees: Sequence[Tree], examples: Sequence[QAExample]) -> Scores:
        answers = [answers for _, questions in trees for _, answers in questions]
        total, parts = torch.zeros(sum(map(len, answers))), {}
        if functions:
            repeated = [e for e, texts in zip(examples, answers, strict=True) for _ in texts]
            texts = [tokenizer.decode(ids).strip() for group in answers for ids in group]
        for shown, term in zip(_shown_names(terms), terms, strict=True):
            if term.name == MODEL:
                found = {"reward": model_rewards(reward, trees, tokenizer.eos_id)}
            else:
                found = function_rewards(functions[term.name], texts, repeated)
            alone = found.pop("reward")
            total = total + term.weight * alone
            if len(terms) > 1:
                found = {shown: alone, **{f"{shown}_{part}": v for part, v in found.items()}}
            parts |= found
        return Scores(total, parts)

    return reward_of


def _shown_names(terms: Sequence[Term]) -> list[str]:
    """Each reward's name in the log: a function's own, with its module's if two have the same."""
    short = [term.name.rpartition(":")[2] for term in terms]
    return [
        term.name.replace(":", ".") if short.count(name) > 1 else name
        for name, term in zip(short, terms, strict=True)
    ]
