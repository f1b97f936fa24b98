"""The data of a run: questions and preference pairs, from its flags and its parent checkpoint."""

import argparse
import contextlib
import gc
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from src.data.demonstrations import changed_questions, in_sentences
from src.data.encoding import EncodedParagraph, characters_per_token, encode_paragraphs
from src.data.random_streams import Stream, stream
from src.data.roles import ROLE_OF_STAGE, deal
from src.data.squad_dataset import ContextGroups, context_groups, training_trees
from src.data.squad_loader import SquadData, load_from_identity, load_squad, require_difficulties
from src.data.squad_preferences import parse_corruptions
from src.data.squad_splits import count_questions
from src.data.squad_types import Paragraph
from src.data.tokenizers.tokenizer import Tokenizer
from src.data.trained_contexts import union
from src.data.windows import Place, Tree
from src.evaluation.evaluation_set import EvaluationSet, hold_out
from src.evaluation.user_functions import load_function
from src.preference.pair_files import (
    GivenPairs,
    load_given_pairs,
    pair_questions,
    units_of,
)
from src.preference.pairs import (
    PairSet,
    chosen_pairs,
    chosen_trees,
    given_pairs,
    held_out_pairs,
    training_pairs,
)
from src.preference.sampled import sampled_answers
from src.training import planning
from src.training.distributed import first_alone
from src.training.run import Run
from src.utils.checkpoint_utils import Checkpoint
from src.utils.constants import DEFAULT_DIFFICULTY, PAIRS_EPOCHS, SFT
from src.utils.errors import UserError
from src.utils.progress_bar import say

CACHE_DIR = ".cache/encoded"
# The longest answer is what this share of the training answers needs, within bounds in tokens and a
# quarter of the block.
ANSWERS_REACHED, SHORTEST_LIMIT, LONGEST_ANSWER = 0.99, 16, 128
# Context groups whose gold answers fix the reward model's offset and scale.
NORMALISED_ON = 128
DATA_OF = "the data of --dataset"
# With fewer characters a token, the tokenizer does not know the language. pico has 1.6 on SQuAD.
USUAL_CHARACTERS = 1.5


class Questions(NamedTuple):
    """Training and held-out questions. encoded: of train; units: the context groups that training
    batches are made of, about one a context; chosen: the held-out paragraphs used; held_out: None
    where `--pairs` is all the data there is. given: the pairs of `--pairs`.
    """

    train: list[Paragraph]
    encoded: list[EncodedParagraph]
    units: ContextGroups
    chosen: list[Paragraph]
    chosen_encoded: list[EncodedParagraph]
    held_out: EvaluationSet | None
    identity: dict
    given: GivenPairs | None = None

    @property
    def trained_on(self) -> list[Paragraph]:
        """What the stage trains on: the questions, or those of the given pairs."""
        return self.train if self.given is None else pair_questions(self.given.train).paragraphs


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection while the data is built, nor of the data later: it is millions of lists
    that are never freed.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _data_of(args: argparse.Namespace, parent: Checkpoint | None) -> SquadData:
    """The data set of the flags; flags that were not given are inherited from the parent."""
    inherited = parent is not None and args.dataset is None
    if inherited:  # checked to be the same data, even if only a part of it is used
        try:
            data = load_from_identity(parent.data)
        except UserError as error:
            raise UserError(f"the data that {parent.path} was trained on: {error}") from None
        if not (args.difficulty or args.num_examples or args.strict_data):
            say(f"data: {data.identity['dataset']}, inherited from {parent.path}")
            return data
    found_later = args.dataset in (None, "auto")  # what parsing could not check
    stored = parent.data if parent else {}
    data = load_squad(
        stored["dataset"] if inherited else args.dataset,
        seed=stored.get("seed", args.seed),
        difficulty=args.difficulty or stored.get("difficulty") or DEFAULT_DIFFICULTY,
        num_examples=args.num_examples or (stored.get("num_examples") if inherited else None),
        strict=args.strict_data,
    )
    if found_later:
        require_difficulties(data.identity["dataset"], args.difficulty)
    say(f"data: {data.identity['dataset']}, as the flags say")
    return data


def _metric_of(args: argparse.Namespace, parent: Checkpoint | None) -> str:
    """How answers are compared: --answer_metric, or where it is left out the parent's."""
    if parent is None:
        return args.answer_metric
    metric = args.answer_metric or parent.answer_metric
    source = "as the flag says" if args.answer_metric else f"inherited from {parent.path}"
    say(f"answer metric: {metric}, {source}")
    return metric


def say_remedy(
    held_out: EvaluationSet, encoded: Sequence[EncodedParagraph], tokenizer: Tokenizer
) -> None:
    """Say what to do where windows cut golds off because the tokenizer does not know the text's
    language.
    """
    found = characters_per_token(encoded)
    if held_out.lost and 0 < found < USUAL_CHARACTERS:  # 0: prompts without contexts
        say(
            f"tokenizer {tokenizer.name}: {found:.1f} characters a token, of text that it knows 2 "
            "to 5: so contexts are long and windows cut much off. Train one on this text: "
            "PYTHONPATH=. python tools/train_tokenizer.py --dataset DATA --vocab_size 4096 "
            "--pico_share 0 --output mine.tiktoken, and start main_squad.py with --tokenizer "
            "mine.tiktoken"
        )


@first_alone()
@_uncollected()
def load_questions(
    args: argparse.Namespace,
    tokenizer: Tokenizer,
    block_size: int,
    stage: str,
    parents: Sequence[Checkpoint] = (),
    shares: str | None = None,
    sentence_answers: float = 0.0,
    samples: bool = False,
) -> Questions:
    """The data of the flags, or inherited from the first parent. Prints what was used and dropped.

    stage: decides which role of the data is trained on, if the data is divided into roles.
    shares: how it is divided, as --shares gives it; inherited with the data.
    sentence_answers: as in `in_sentences`.
    parents: what any of them was trained on is not held out.
    samples: whether the stage samples answers of --max_new_tokens, so that windows leave room for
    them.

    Rank 0 loads and encodes first; the other ranks use its caches.
    """
    parent = parents[0] if parents else None
    inherited = parent is not None and args.dataset is None
    try:
        data = _data_of(args, parent)
    except UserError as error:
        # A resumed run has its parent's data set among its flags.
        of_parent = parent is not None and args.dataset in (None, parent.data.get("dataset"))
        if not (of_parent and getattr(args, "pairs", None)):
            raise
        say(f"{error}; --pairs needs no questions: EM, F1 and answer loss are left out")
        return _pairs_alone(args, parents, block_size)
    # Also where the flags name the parent's data, as a resumed run's stored flags do.
    if parent is not None and data.identity["dataset"] == parent.data.get("dataset"):
        shares = parent.data.get("shares")
    train = _train_of_role(data, shares, stage)
    if sentence_answers:
        plain = train
        train = in_sentences(plain, sentence_answers, data.identity["seed"])
        say(
            f"data: {changed_questions(plain, train)} of {count_questions(train)} demonstrations "
            "answer in sentences"
        )
    identity = {**data.identity, "shares": shares, "answer_metric": _metric_of(args, parent)}
    identity["metric"] = args.metric or (parent.data.get("metric") if inherited else None)
    own_metric = load_function(identity["metric"], "--metric") if identity["metric"] else None
    for name in ("dataset", "difficulty", "num_examples", "answer_metric", "metric"):
        setattr(args, name, identity.get(name))
    for line in data.report.lines():
        say(f"data: {line}")
    if not data.validation:
        raise UserError(
            f"{data.identity['dataset']} has no held-out article, expected at least two articles"
        )
    encoded = encode_paragraphs(train, tokenizer, CACHE_DIR)
    if args.max_answer_tokens is None and inherited:
        args.max_answer_tokens = parent.max_answer_tokens
    if args.max_answer_tokens is None:
        args.max_answer_tokens = longest_answer(encoded, block_size)
    chosen, chosen_encoded, held_out, _ = hold_out(
        data.validation, union(p.trained_on for p in parents), tokenizer, block_size,
        args.max_answer_tokens, source=f"--dataset {data.identity['dataset']}",
        limit=args.eval_limit,
        include_trained=None if stage == SFT else args.include_trained,
        metric=args.answer_metric, own_metric=own_metric,
    )
    answer_budget = 0
    if samples:
        args.max_new_tokens = args.max_new_tokens or args.max_answer_tokens
        answer_budget = args.max_new_tokens + 1
    units = context_groups(encoded, block_size, answer_budget=answer_budget)
    say(
        f"data: {count_questions(train)} training questions ({units.dropped} fit no window of "
        f"{block_size} tokens), {held_out.summary()}"
    )
    say_remedy(held_out, chosen_encoded, tokenizer)
    given = _given_pairs(args, data.identity["template"], parents, data.validation)
    if given is not None:
        identity["pairs"] = given.identity
    return Questions(train, encoded, units, chosen, chosen_encoded, held_out, identity, given)


def _given_pairs(
    args: argparse.Namespace,
    template: bool,
    parents: Sequence[Checkpoint],
    validation: Sequence[Paragraph] = (),
) -> GivenPairs | None:
    """The pairs of `--pairs`, if it is given: none to train on is of a held-out context."""
    if not getattr(args, "pairs", None):
        return None
    given = load_given_pairs(
        args.pairs, template=template, reserved=units_of(validation),
        trained_on=frozenset(union(p.trained_on for p in parents).tolist()),
        limit=args.eval_limit, strict=args.strict_data,
    )
    for line in given.report.lines():
        say(f"pairs: {line}")
    return given


def _pairs_alone(
    args: argparse.Namespace, parents: Sequence[Checkpoint], block_size: int
) -> Questions:
    """No questions, as their data cannot be had; the pairs of `--pairs`."""
    parent = parents[0]
    given = _given_pairs(args, parent.data.get("template", True), parents)
    for name in ("dataset", "difficulty", "num_examples", "metric"):
        setattr(args, name, parent.data.get(name))
    args.answer_metric = _metric_of(args, parent)
    args.max_answer_tokens = args.max_answer_tokens or parent.max_answer_tokens
    none = ContextGroups([], 0, block_size, 0)
    identity = {k: v for k, v in parent.data.items() if k != "pairs"}
    identity |= {"answer_metric": args.answer_metric, "pairs": given.identity}
    return Questions([], [], none, [], [], None, identity, given)


def _train_of_role(data: SquadData, shares: str | None, stage: str) -> list[Paragraph]:
    """The training paragraphs of a stage's role; all of them where there are no shares."""
    if shares is None:
        return data.train
    dealt = deal(data.train, shares, data.identity["seed"])
    counts = (f"{role} {count_questions(paragraphs)}" for role, paragraphs in dealt.items())
    train = dealt[ROLE_OF_STAGE[stage]]
    say(f"data: questions by role: {', '.join(counts)}; {stage} trains on {ROLE_OF_STAGE[stage]}")
    if not train:
        raise UserError(
            f"--shares {shares} of main_squad.py leaves no "
            f"{ROLE_OF_STAGE[stage]} for {stage}, expected a share above 0"
        )
    return train


def longest_answer(encoded: Sequence[EncodedParagraph], block_size: int) -> int:
    """Tokens, EOS included, that all but a hundredth of the golds need at most; within bounds."""
    lengths = [len(gold) + 1 for p in encoded for q in p.questions for gold in q.golds]
    needed = int(np.quantile(lengths, ANSWERS_REACHED, method="inverted_cdf")) if lengths else 0
    most = min(LONGEST_ANSWER, max(1, block_size // 4))
    return min(max(needed, SHORTEST_LIMIT), most)


def out_of_reach(questions: Questions, longest: int) -> set[Place]:
    """The (paragraph, question)s of training whose golds all have more than `longest` tokens, EOS
    included.
    """
    return {
        (p, q)
        for p, asked in questions.units.groups
        for q in asked
        if all(len(gold) >= longest for gold in questions.encoded[p].questions[q].golds)
    }


def inputs_of(
    questions: Questions, parents: Sequence[Checkpoint], tokenizer: Tokenizer
) -> dict[str, str]:
    """Inputs of a run besides its flags -> their hashes, for `Run.start`."""
    identity, data = questions.identity, {}
    if questions.held_out is not None:
        data[f"{DATA_OF} {identity['dataset']}"] = identity["fingerprint"]
    if questions.given is not None:
        pairs = questions.given.identity
        data[f"the pairs of --pairs {pairs['pairs']}"] = pairs["fingerprint"]
    return {
        **data,
        f"the tokenizer {tokenizer.name}": tokenizer.identity()["fingerprint"],
        **{parent.path: parent.sha256 for parent in parents},
    }


def take_pairs_defaults(run: Run) -> None:
    """Other defaults where `--pairs` is given, whose pairs are few."""
    if run.args.pairs:
        run.take_defaults({"epochs": PAIRS_EPOCHS}, f"--pairs {run.args.pairs}")


def planned_pairs(
    args: argparse.Namespace,
    asked_steps: int | None,
    questions: Questions,
    parent: Checkpoint,
) -> tuple[PairSet, PairSet, int]:
    """`load_pairs` and the number of steps, which depend on each other: pairs are made for the
    contexts that the steps will see, and --epochs are over the trees of those pairs.

    asked_steps: --max_steps as it was given.
    """
    planned = 0 if args.pairs else planning.steps_for_pairs(args, asked_steps, questions.units)
    train, unseen = load_pairs(args, questions, parent, planned)
    return train, unseen, planning.plan_pair_steps(args, asked_steps, train)


def load_pairs(
    args: argparse.Namespace,
    questions: Questions,
    parent: Checkpoint,
    max_steps: int,
) -> tuple[PairSet, PairSet]:
    """Training and held-out preference pairs: of --pairs, or of the flags' mix of corruptions.

    Pairs of corruptions are made only for as many contexts, drawn at random, as max_steps steps
    will see. parent: its own answers are among the rejected ones.
    """
    tokenizer, block_size = parent.tokenizer, parent.model.config.block_size
    if questions.given is not None:
        return _pairs_of(args, questions.given, tokenizer, block_size)
    weights = parse_corruptions(args.corruptions)
    name = questions.identity["dataset"]
    groups = Counter(paragraph for paragraph, _ in questions.units.groups)
    usable = sorted(groups)
    order = [usable[i] for i in stream(Stream.PAIRS, args.seed).permutation(len(usable))]
    ends = list(accumulate(groups[paragraph] for paragraph in order))
    chosen = sorted(order[: bisect_left(ends, max_steps * args.batch_size) + 1])
    asked = [questions.train[i] for i in chosen]
    encoded, metric = [questions.encoded[i] for i in chosen], questions.held_out.metric

    def sampled(asked: Sequence[EncodedParagraph], seed: int) -> dict[Place, list[str]]:
        if not weights.get("sampled"):
            return {}
        return sampled_answers(
            parent.model, asked, tokenizer, block_size, max_new_tokens=args.max_answer_tokens,
            seed=seed,
        )

    train = training_pairs(
        asked, encoded, tokenizer, block_size, name, weights, args.seed, metric,
        max_pairs=args.max_pairs, label_noise=args.label_noise,
        sampled=sampled(encoded, args.seed),
    )
    unseen = held_out_pairs(
        questions.chosen, questions.chosen_encoded, tokenizer, block_size, name, weights, metric,
        sampled=sampled(questions.chosen_encoded, 0),
    )
    for what, pair_set, of in (("training", train, asked), ("held-out", unseen, questions.chosen)):
        kinds = Counter(pair.kind for pair in pair_set.in_order())
        mix = ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())
        dropped = pair_set.trees.dropped
        if not kinds:
            raise UserError(
                f"no {what} pair of {dropped} fits a block of {block_size} tokens, expected some: "
                "shorter data, or a larger --block_size of main_squad.py"
            )
        unspoilt = count_questions(of) - len(pair_set.pairs)
        rest = f"{unspoilt} questions have no answer that these corruptions spoil"
        if what == "training" and (args.max_pairs or args.label_noise):
            rest = f"--max_pairs {args.max_pairs}, --label_noise {args.label_noise:g}"
        say(f"{what} pairs: {kinds.total()} ({mix}); {dropped} did not fit the block; {rest}")
    return train, unseen


def _pairs_of(
    args: argparse.Namespace, given: GivenPairs, tokenizer: Tokenizer, block_size: int
) -> tuple[PairSet, PairSet]:
    """Training and held-out pairs of --pairs; --max_pairs and --label_noise change the former."""
    rows = chosen_pairs(given.train, args.max_pairs, args.label_noise, args.seed)
    train = given_pairs(rows, tokenizer, block_size, CACHE_DIR)
    unseen = given_pairs(given.held_out, tokenizer, block_size, trained_on=given.trained_on)
    for what, pair_set in (("training", train), ("held-out", unseen)):
        kept, dropped = len(pair_set.in_order()), pair_set.trees.dropped
        if not kept:
            raise UserError(
                f"--pairs {given.identity['pairs']}: none of {dropped} {what} pairs fits a block "
                f"of {block_size} tokens, expected some: shorter ones, or a larger --block_size of "
                "main_squad.py"
            )
        say(
            f"{what} pairs: {kept}, given; {dropped} more are dropped: prompt and longer answer do "
            f"not fit the block of {block_size} tokens"
        )
    if unseen.seen:
        say(f"held-out pairs: {unseen.kind} by earlier stages, which read their contexts or "
            "prompts")
    return train, unseen


def gold_trees(questions: Questions, train: PairSet, seed: int) -> list[Tree]:
    """Right answers to normalise scores on: some golds, or chosen answers where there are none."""
    if not questions.units.groups:
        return chosen_trees(train, NORMALISED_ON)
    return some_gold_trees(questions.encoded, questions.units, seed)


def some_gold_trees(
    encoded: Sequence[EncodedParagraph], units: ContextGroups, seed: int
) -> list[Tree]:
    """Gold answers of a seeded sample of context groups, to normalise scores on."""
    rng = stream(Stream.GOLDS, seed)
    chosen = rng.permutation(len(units.groups))[:NORMALISED_ON]
    some = units._replace(groups=[units.groups[i] for i in sorted(chosen)])
    return training_trees(encoded, some, rng, gold="first")
