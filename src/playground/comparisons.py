"""What is voted on: a training question, and two different answers to it in random order.

Held-out questions are not offered: what a vote trains on could not be measured on afterwards.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from src.data.roles import ROLE_OF_STAGE, deal
from src.data.squad_loader import load_from_identity, load_squad
from src.data.squad_types import Paragraph
from src.evaluation.squad_metrics import QAExample, qa_example
from src.inference.sampling import Sampling, generate
from src.playground.answers import cut_prompt
from src.playground.checkpoints import Policy
from src.playground.votes import Candidate, Comparison
from src.utils.constants import DPO
from src.utils.errors import UserError

# Questions of the embedded data to draw from, which has no end.
GENERATED = 2_000
# Draws after which another question is taken, as a sure policy says the same again, and questions
# after which there is no use in going on.
DRAWS = 8
QUESTIONS = 20


class Voting(NamedTuple):
    """What the page votes on. template: whether the questions have contexts; path: of the votes."""

    questions: Sequence[QAExample]
    template: bool
    path: Path


def training_questions(data: dict) -> list[QAExample]:
    """The questions that preferences may be asked about: of the comparisons' role where the data is
    dealt into roles, else all of the training split. data: the identity of a checkpoint's data.
    """
    paragraphs = _training_paragraphs(data)
    if data.get("shares"):
        paragraphs = deal(paragraphs, data["shares"], data["seed"])[ROLE_OF_STAGE[DPO]]
    return [qa_example(p, q) for p in paragraphs for q in p.questions]


def _training_paragraphs(data: dict) -> list[Paragraph]:
    if data["dataset"] == "pico" and not data.get("shares"):  # the first articles are enough
        few = min(data.get("num_examples") or GENERATED, GENERATED)
        kept = {name: data[name] for name in ("seed", "difficulty")}
        return load_squad("pico", num_examples=few, **kept).train
    return load_from_identity(data).train


def sample_text(policy: Policy, example: QAExample, temperature: float, seed: int) -> str:
    """One answer of a policy, as text, as long as it may answer at evaluation."""
    block, longest = policy.model.config.block_size, policy.max_answer_tokens
    prompt = cut_prompt(policy.tokenizer, example, block, policy.template, longest + 1)
    found = generate(
        policy.model, [(prompt.context, [prompt.question])], policy.tokenizer.eos_id,
        sampling=Sampling(temperature), num_samples=1, max_new_tokens=longest, seed=seed,
    )
    return policy.tokenizer.decode(found.texts()[0]).strip()


def draw_comparison(
    voting: Voting,
    policies: tuple[Policy, Policy],
    temperature: float,
    rng: random.Random,
) -> Comparison:
    """The next question with an answer of each policy, which differ and are not empty, in random
    order. UserError where none can be found.
    """
    if not voting.questions:
        raise UserError("no training questions to vote on, expected a checkpoint whose data is "
                        "there")
    if {policy.template for policy in policies} != {voting.template}:
        raise UserError(
            "a policy given that reads another kind of prompt than the questions are, expected "
            "one of the same data"
        )
    reason = ""
    for _ in range(QUESTIONS):
        example = voting.questions[rng.randrange(len(voting.questions))]
        try:
            pair = _two_answers(policies, example, temperature, rng)
        except UserError as error:  # too long a question
            reason = str(error)
            continue
        if pair is not None:
            rng.shuffle(pair)
            return Comparison(example.context if voting.template else None, example.question, *pair)
    raise UserError(
        reason
        or f"{QUESTIONS} questions got no two different answers in {DRAWS} draws each, "
        "expected a higher temperature or two policies"
    )


def _two_answers(
    policies: tuple[Policy, Policy],
    example: QAExample,
    temperature: float,
    rng: random.Random,
) -> list[Candidate] | None:
    """An answer of each policy, or None where they do not come to differ."""
    found: list[Candidate] = []
    for _ in range(DRAWS):
        policy, seed = policies[len(found)], rng.randrange(2**31)
        text = sample_text(policy, example, temperature, seed)
        sound = text and "\x00" not in text  # which --pairs would drop
        if sound and text not in [candidate.text for candidate in found]:
            found.append(Candidate(text, policy.name, policy.sha256, seed, temperature))
        if len(found) == len(policies):
            return found
    return None
