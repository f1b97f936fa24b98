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
from src.training.distributed import gather
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
    function: Function, predictions: Sequence[str], asked: Sequence[QAExample]
) -> dict[str, Tensor]:
    """Under "reward" the rewards (N,), float32, of predictions, each given with its question. Under
    other names what else the function returns for the log.

    Raises UserError when the function fails or returns something that is no finite number.
    """
    found = call_function(function, predictions, asked, "reward")
    return {name: torch.tensor(values) for name, values in found.items()}


def model_rewards(
    reward: RewardModel,
    trees: Sequence[Tree],
    eos_id: int,
    device: torch.device | str = "cpu",
    raw: bool = False,
) -> Tensor:
    """Normalised (or raw) scores (N,) of every answer of the trees, read at the EOS after it.

    An answer that was cut off is scored as if EOS followed.
    """

    def of_batch(batch: Sequence[Tree]) -> Tensor:
        tree_batch = build_tree_batch(batch, eos_id, device, reads_eos=True)
        scores = raw_reward(reward, tree_batch)
        return scores if raw else reward.normalise(scores)

    with torch.inference_mode():
        return for_all_completions(trees, of_batch)


class RewardOfTrees:
    """The weighted sum of some rewards, for every answer of the trees that it is called with.

    parts: what to log of the last call beside the sum, name -> values (N,). It has each reward,
    unweighted, if there are several, and the parts that functions return.
    """

    def __init__(
        self, terms: Sequence[Term], scores: Sequence[Callable[[Sequence[Tree]], dict[str, Tensor]]]
    ) -> None:
        self._terms, self._scores = terms, scores
        self.parts: dict[str, Tensor] = {}

    def __call__(self, trees: Sequence[Tree]) -> Tensor:
        """Rewards (N,) of the trees' answers, question after question."""
        self.parts, total = {}, 0.0
        for name, term, score in zip(self._names(), self._terms, self._scores, strict=True):
            found = score(trees)
            reward = found.pop("reward")
            total = total + term.weight * reward
            if len(self._terms) > 1:
                found = {name: reward, **{f"{name}_{part}": v for part, v in found.items()}}
            self.parts |= found
        return total

    def _names(self) -> list[str]:
        """The name of each reward in the log: a function's own, with its module's if two have the
        same.
        """
        short = [term.name.rpartition(":")[2] for term in self._terms]
        return [
            term.name.replace(":", ".") if short.count(name) > 1 else name
            for name, term in zip(short, self._terms, strict=True)
        ]

    def means(self) -> dict[str, float]:
        """reward_{name}_mean -> the mean of a part over the answers of the last call on all ranks.
        All ranks must call it.
        """
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for its in gather({name: (v.sum().item(), len(v)) for name, v in self.parts.items()}):
            for name, (value, count) in its.items():
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + count
        return {f"reward_{name}_mean": sums[name] / max(1, counts[name]) for name in sums}


def reward_of_trees(
    name: str,
    reward: RewardModel | None,
    tokenizer: Tokenizer,
    asked: Sequence[QAExample],
    device: torch.device | str = "cpu",
    metric: str = "squad",
    seed: int = 0,
) -> RewardOfTrees:
    """A function from trees with answers to their rewards (N,), as `--reward name` says.

    reward: the model for `model`, else None. asked: the trees' questions, in order, for functions.
    seed: of noise.
    """

    def of_model(trees: Sequence[Tree]) -> dict[str, Tensor]:
        return {"reward": model_rewards(reward, trees, tokenizer.eos_id, device).cpu()}

    def of_function(function: Function) -> Callable[[Sequence[Tree]], dict[str, Tensor]]:
        def score(trees: Sequence[Tree]) -> dict[str, Tensor]:
            answers = [answers for _, questions in trees for _, answers in questions]
            repeated = [about for about, texts in zip(asked, answers, strict=True) for _ in texts]
            texts = [tokenizer.decode(ids).strip() for group in answers for ids in group]
            return function_rewards(function, texts, repeated)

        return score

    terms = parse_rewards(name)
    scores = [
        of_model if term.name == MODEL else of_function(reward_function(term.name, metric, seed))
        for term in terms
    ]
    return RewardOfTrees(terms, scores)
