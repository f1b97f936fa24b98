"""What PPO optimises: the reward model's score, the SQuAD metric itself, or a function of yours."""

import importlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from src.data.tokenizers.tokenizer import Tokenizer
from src.evaluation.squad_metrics import QAExample, exact_match, f1_score
from src.inference.logprobs import Tree, build_tree_batch, for_all_completions, last_hidden
from src.model.heads import RewardModel
from src.utils.errors import UserError

# prediction, golds, context, question -> reward
RewardFunction = Callable[[str, Sequence[str], str, str], float]


def reward_function(name: str, metric: str = "squad") -> RewardFunction:
    """The function behind `--reward f1|em|module:function`; UserError when there is none.

    metric: how f1 and em compare answers.
    """
    if name == "f1":
        return lambda prediction, golds, context, question: f1_score(prediction, golds, metric)
    if name == "em":
        return lambda prediction, golds, context, question: exact_match(prediction, golds, metric)
    module, _, attribute = name.partition(":")
    if not attribute:
        raise UserError(f"--reward {name} given, expected model, f1, em or module:function")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the user's own module
        raise UserError(
            f"--reward {name} given, but {error}: expected an importable function"
        ) from error
    if not callable(function):
        raise UserError(
            f"--reward {name} given, expected a function, found a {type(function).__name__}"
        )
    return function


def function_rewards(
    function: RewardFunction, predictions: Sequence[str], asked: Sequence[QAExample]
) -> Tensor:
    """Rewards (N,) float32 of predictions, each with the question it answers.

    Raises UserError when the function fails or returns something that is no finite number.
    """
    values = []
    for prediction, about in zip(predictions, asked, strict=True):
        try:
            value = function(prediction, about.golds, about.context, about.question)
        except Exception as error:  # the user's own code
            raise UserError(
                f"the reward function failed for {prediction!r} with {type(error).__name__}: "
                f"{error}, expected a finite number"
            ) from error
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(
                f"the reward function gave {value!r:.60} for {prediction!r}, expected a finite "
                "number"
            )
        values.append(number)
    return torch.tensor(values)


def model_rewards(
    reward: RewardModel,
    trees: Sequence[Tree],
    eos_id: int,
    device: torch.device | str = "cpu",
    raw: bool = False,
) -> Tensor:
    """Normalised (or raw) scores (N,) of every answer of the trees, read at a stop token after it.

    An answer that was cut off is scored as if the stop token followed.
    """

    def of_batch(batch: Sequence[Tree]) -> Tensor:
        tree_batch = build_tree_batch(batch, eos_id, device, reads_eos=True)
        end = last_hidden(reward.backbone, tree_batch)
        return reward.raw_score(end) if raw else reward.score(end)

    with torch.inference_mode():
        return for_all_completions(trees, of_batch)


def reward_of_trees(
    name: str,
    reward: RewardModel | None,
    tokenizer: Tokenizer,
    asked: Sequence[QAExample],
    device: torch.device | str = "cpu",
    metric: str = "squad",
) -> Callable[[Sequence[Tree]], Tensor]:
    """A function from trees with answers to their rewards (N,), as `--reward name` says.

    reward: the model for `model`, else None. asked: the trees' questions, in order, for functions.
    """
    if reward is not None:
        return lambda trees: model_rewards(reward, trees, tokenizer.eos_id, device)
    function = reward_function(name, metric)

    def score(trees: Sequence[Tree]) -> Tensor:
        answers = [answers for _, questions in trees for _, answers in questions]
        repeated = [about for about, texts in zip(asked, answers, strict=True) for _ in texts]
        texts = [tokenizer.decode(ids).strip() for group in answers for ids in group]
        return function_rewards(function, texts, repeated)

    return score
