"""The data of a run: its questions and preference pairs, as its flags and its parent say."""

import argparse
import contextlib
import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from src.data.encoding import EncodedParagraph, characters_per_token, encode_paragraphs
from src.data.random_streams import Stream, stream
from src.data.squad_dataset import ContextGroups, context_groups, training_trees
from src.data.squad_loader import SquadData, load_from_identity, load_squad, require_difficulties
from src.data.squad_preferences import parse_corruptions
from src.data.squad_types import Paragraph
from src.data.tokenizers.tokenizer import Tokenizer
from src.evaluation.evaluation_set import EvaluationSet, choose_questions, held_out_questions
from src.inference.logprobs import Tree
from src.preference.pairs import PairSet, held_out_pairs, training_pairs
from src.training.distributed import first_alone
from src.training.run import say
from src.utils.checkpoint_utils import Checkpoint
from src.utils.errors import UserError

CACHE_DIR = ".cache/encoded"
# Units whose gold answers fix the reward model's offset and scale.
NORMALISED_ON = 128
# With fewer characters a token, the tokenizer does not know the language. pico has 1.6 on SQuAD.
USUAL_CHARACTERS = 1.5


class Questions(NamedTuple):
    """Training and held-out questions. encoded: of train; units: what training batches are dealt
    from, about one a context; chosen: the held-out paragraphs used.
    """

    train: list[Paragraph]
    encoded: list[EncodedParagraph]
    units: ContextGroups
    chosen: list[Paragraph]
    chosen_encoded: list[EncodedParagraph]
    held_out: EvaluationSet
    identity: dict


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection while the data is built, nor of the data later: millions of lists are
    made, and none is freed.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _data_of(args: argparse.Namespace, parent: Checkpoint | None) -> SquadData:
    """What the flags name; what they leave out is the parent's."""
    inherited = parent is not None and args.dataset is None
    if inherited:  # checked to be the same data, also where only a part of it is asked for
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
        difficulty=args.difficulty or stored.get("difficulty") or 2,
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
    if held_out.lost and found < USUAL_CHARACTERS:
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
    parent: Checkpoint | None = None,
    answer_budget: int = 0,
) -> Questions:
    """The data of the flags; what they leave out is the parent's. Says what was used and dropped.
    answer_budget: tokens to leave for an answer of the model's own and its stop token.

    Rank 0 loads and encodes first, the others find its caches.
    """
    data = _data_of(args, parent)
    identity = {**data.identity, "answer_metric": _metric_of(args, parent)}
    for name in ("dataset", "difficulty", "num_examples", "answer_metric"):
        setattr(args, name, identity.get(name))
    if data.dropped:
        say("data dropped: " + ", ".join(f"{n} {reason}" for reason, n in data.dropped.items()))
    if not data.validation:
        raise UserError(
            f"{data.identity['dataset']} has no held-out article, expected at least two articles"
        )
    chosen = choose_questions(data.validation, args.eval_limit, seed=0)
    encoded = encode_paragraphs(data.train, tokenizer, CACHE_DIR)
    chosen_encoded = encode_paragraphs(chosen, tokenizer)
    held_out = held_out_questions(chosen, chosen_encoded, block_size, args.answer_metric)
    units = context_groups(encoded, block_size, answer_budget=answer_budget)
    asked = sum(len(p.questions) for p in data.train)
    say(
        f"data: {asked} training questions ({units.dropped} fit no window of {block_size} tokens), "
        f"{held_out.told()}"
    )
    say_remedy(held_out, chosen_encoded, tokenizer)
    return Questions(
        data.train, encoded, units, chosen, chosen_encoded, held_out, identity
    )  # fmt: skip


def inputs_of(
    questions: Questions, parents: Sequence[Checkpoint], tokenizer: Tokenizer
) -> dict[str, str]:
    """What a run depends on besides its flags -> its hash, for `Run.start`."""
    return {
        f"the data of --dataset {questions.identity['dataset']}": questions.identity["fingerprint"],
        f"the tokenizer {tokenizer.name}": tokenizer.identity()["fingerprint"],
        **{parent.path: parent.sha256 for parent in parents},
    }


def load_pairs(
    args: argparse.Namespace,
    questions: Questions,
    tokenizer: Tokenizer,
    block_size: int,
    max_steps: int,
) -> tuple[PairSet, PairSet]:
    """Training and held-out preference pairs of the flags' mix of corruptions; training pairs of
    only as many contexts as so many steps will see.
    """
    weights = parse_corruptions(args.corruptions)
    name = questions.identity["dataset"]
    usable = sorted({paragraph for paragraph, _ in questions.units.groups})
    order = stream(Stream.PAIRS, args.seed).permutation(len(usable))
    chosen = sorted(usable[i] for i in order[: max_steps * args.batch_size])
    asked = [questions.train[i] for i in chosen]
    train = training_pairs(
        asked,
        [questions.encoded[i] for i in chosen],
        tokenizer,
        block_size,
        name,
        weights,
        args.seed,
        questions.held_out.metric,
    )
    unseen = held_out_pairs(
        questions.chosen, questions.chosen_encoded, tokenizer, block_size, name, weights,
        questions.held_out.metric,
    )  # fmt: skip
    for what, pair_set, of in (("training", train, asked), ("held-out", unseen, questions.chosen)):
        kinds = Counter(pair.kind for pair in pair_set.in_order())
        mix = ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())
        dropped = pair_set.trees.dropped
        if not kinds:
            raise UserError(
                f"no {what} pair of {dropped} fits a block of {block_size} tokens, expected some: "
                "shorter data, or a larger --block_size of main_squad.py"
            )
        unspoilt = sum(len(p.questions) for p in of) - len(pair_set.pairs)
        say(
            f"{what} pairs: {kinds.total()} ({mix}); {dropped} did not fit the block; {unspoilt} "
            "questions have no answer that these corruptions spoil"
        )
    return train, unseen


def some_gold_trees(
    encoded: Sequence[EncodedParagraph], units: ContextGroups, seed: int
) -> list[Tree]:
    """Gold answers of a seeded choice of units, to normalise scores on."""
    rng = stream(Stream.GOLDS, seed)
    chosen = rng.permutation(len(units.groups))[:NORMALISED_ON]
    some = units._replace(groups=[units.groups[i] for i in sorted(chosen)])
    return training_trees(encoded, some, rng, gold="first")
