"""Flags that several scripts share. Imports nothing heavy: `--help` answers at once."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence

from src.utils.constants import (
    ANSWER_METRICS,
    DEFAULT_DIFFICULTY,
    MAX_BLOCK_SIZE,
    MICRO_BATCH_TOKENS,
    MODEL_TYPES,
    PAIRS_EPOCHS,
    PRETRAINED_DEFAULTS,
    SFT,
    TRACKERS,
)
from src.utils.errors import UserError
from src.utils.ranks import rank

LARGEST_INT = 2**63 - 1
# Flags that name something, where nothing is no name.
NAMING_FLAGS = (
    "output_dir", "checkpoint", "checkpoints", "reward_checkpoint", "dataset", "tokenizer",
    "init_from", "pairs", "metric", "same_compute_as",
)


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults in the help, but for those that the text itself explains."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line on stderr and exit code 2, and whose help shows
    defaults.
    """

    def __init__(self, **options) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Defaults, **options)

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        """As argparse. Refuses an empty name, which an unset shell variable gives, and a difficulty
        of data that have none.
        """
        found = super().parse_args(args, namespace)
        for name in NAMING_FLAGS:
            given = getattr(found, name, None)
            if given == "" or (isinstance(given, list) and "" in given):
                self.error(f"--{name} '' given, expected a name")
        dataset = getattr(found, "dataset", None)
        if dataset not in (None, "auto", "pico") and getattr(found, "difficulty", None):
            self.error(f"--difficulty {found.difficulty} given with --dataset {dataset}, expected "
                       "it left out: only the embedded data has difficulties")
        return found

    def error(self, message: str) -> None:
        """Print `message` in one line and exit with code 2."""
        line = " ".join(message.split())
        if not rank():
            print(f"{self.prog}: {line} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def typed(self, argv: Sequence[str] | None) -> set[str]:
        """Names of the flags given in argv, as opposed to those left at their defaults."""
        words = sys.argv[1:] if argv is None else argv
        given = {word.split("=", 1)[0] for word in words if word.startswith("--")}
        return {a.dest for a in self._actions if given & set(a.option_strings)}

    def accepts(self, name: str, value: object) -> bool:
        """Whether a stored value is one that this flag could have, typed or left out."""
        action = next((a for a in self._actions if a.dest == name), None)
        if action is None or action.const is not None or value is None:
            return action is not None and (type(value) is bool or value is action.default)
        try:
            parsed = self._get_value(action, str(value))
            self._check_value(action, parsed)
        except argparse.ArgumentError:
            return False
        return parsed == value and type(value) in (int, float, str)


def number(
    kind: type = float,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> Callable[[str], float]:
    """An argparse type: a finite number of [low, high]; `above` and `below` leave the ends out."""
    words = "a whole number" if kind is int else "a number"
    most = min(high, LARGEST_INT) if kind is int else high  # what a checkpoint can hold
    words += f" {'above' if above else 'of at least'} {low}" if low > -math.inf else ""
    if high < math.inf:
        words += f"{' and' if low > -math.inf else ''} {'below' if below else 'of at most'} {high}"

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        inside = value > low if above else value >= low
        inside = inside and (value < most if below else value <= most)
        # A whole number of 400 digits is too large for isfinite.
        if not inside or not (kind is int or math.isfinite(value)):
            more = " and below 2**63" if kind is int and value > LARGEST_INT else ""
            raise argparse.ArgumentTypeError(f"{text[:60]!r} given, expected {words}{more}")
        return value

    return parse


positive_int = number(int, 1)
count = number(int, 0)
positive = number(float, 0, above=True)
non_negative = number(float, 0)
share = number(float, 0, 1)
# Below it logits divided by the temperature leave float32, and nothing but the best token is drawn.
LEAST_TEMPERATURE = 0.001
sampling_temperature = number(float, LEAST_TEMPERATURE)


def temperature(text: str) -> float:
    """An argparse type: 0, which is greedy, or a temperature that sampling can have."""
    if non_negative(text) == 0:
        return 0.0
    try:
        return sampling_temperature(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text[:60]!r} given, expected 0 (greedy) or at least {LEAST_TEMPERATURE}"
        ) from None


def sizes(text: str) -> list[int]:
    """Whole numbers from 1 in ascending order, as `--best_of 1,2,4` takes them."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or values != sorted(set(values)) or values[0] < 1 or values[-1] > 4096:
        raise argparse.ArgumentTypeError(
            f"{text[:60]!r} given, expected ascending whole numbers from 1 to 4096, as 1,2,4,8"
        )
    return values


def shares(text: str) -> str:
    """Three whole percentages that make 100, as `--shares` takes them; the same text."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or min(values) < 0 or sum(values) != 100:
        raise argparse.ArgumentTypeError(
            f"{text!r} given, expected three percentages that make 100, as 30,40,30"
        )
    return text


def add_machine_flags(parser: Parser) -> None:
    """--seed --device --threads --dtype."""
    parser.add_argument(
        "--seed", type=count, default=0, help="seed of everything random"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda, cuda:N or mps; auto takes a CUDA GPU if there is one",
    )
    parser.add_argument(
        "--threads", type=count, default=0, help="CPU threads; 0: as many as torch chooses"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of products, by autocast: weights and losses stay float32; auto: bfloat16 on a GPU "
        "that has it, and in training and eval_dpo.py on a CPU that multiplies it for models of "
        "width 512 and more",
    )


def add_model_flag(parser: Parser) -> None:
    """--model_type."""
    parser.add_argument(
        "--model_type", choices=MODEL_TYPES, default="transformer", help="architecture"
    )


def add_pair_flags(parser: Parser) -> None:
    """--pairs --corruptions --max_pairs --label_noise, of the stages that train on pairs."""
    parser.add_argument(
        "--pairs",
        metavar="PATH|HUB_ID[:CONFIG]",
        help="pairs that exist, instead of made ones: rows of prompt (or context and question), "
        "chosen and rejected, texts or lists of messages; preferences.jsonl of playground.py; "
        f"--epochs is then {PAIRS_EPOCHS:g} unless given",
    )
    add = parser.add_argument
    add("--corruptions",
        help="kind=weight,... of the rejected answers; default: 24 for sampled, the wrong answers "
        "of the model that the stage starts from, and 1 for each other kind")
    add("--max_pairs", type=positive_int,
        help="training pairs to use, a seeded choice; default: all of --pairs, or of as many "
        "contexts as are seen")
    add("--label_noise", type=share, default=0.0,
        help="share of the training pairs whose chosen and rejected answers are swapped")


def require_one_kind_of_pairs(args: argparse.Namespace) -> None:
    """UserError where pairs are given and made ones described."""
    if args.pairs is not None and args.corruptions is not None:
        raise UserError(
            f"--corruptions {args.corruptions} given with --pairs, expected one of them: nothing "
            "is made where pairs are given"
        )


SHAPE_FLAGS = {
    "n_layer": "layers (of the k-gram: hidden layers); default: 2",
    "n_embd": "width of the embeddings and hidden states; default: 128",
    "n_head": "attention heads, transformer only; default: 4",
    "n_kv_head": "key-value heads, transformer only; default: as many as heads",
    "kgram_k": "tokens that a k-gram sees, k-gram only; default: 16",
    "block_size": "most tokens of context, question, answer and EOS together; default: 1024",
}
OF_ONE_MODEL = {"n_head": "transformer", "n_kv_head": "transformer", "kgram_k": "kgram"}


def add_shape_flags(parser: Parser) -> None:
    """Flags of the model's shape; what is left out takes the architecture's own default."""
    for name, text in SHAPE_FLAGS.items():
        most = MAX_BLOCK_SIZE if name == "block_size" else math.inf
        parser.add_argument(f"--{name}", type=number(int, 1, most), help=text)


def shape_of(args: argparse.Namespace) -> dict[str, int]:
    """The shape flags that were given, as configuration values; UserError for another model's."""
    given = {n: getattr(args, n) for n in SHAPE_FLAGS if getattr(args, n) is not None}
    for name, model_type in OF_ONE_MODEL.items():
        if name in given and args.model_type != model_type:
            raise UserError(
                f"--{name} given with --model_type {args.model_type}, expected it left out: it is "
                f"a {model_type}'s"
            )
    return given


def add_data_flags(parser: Parser, default: str | None, trains: bool = True) -> None:
    """--dataset --difficulty --num_examples --max_answer_tokens --answer_metric --metric, which
    later stages inherit, --strict_data, and --include_trained where there are earlier stages.
    """
    inherited = "" if default else "; default: the parent checkpoint's"
    parser.add_argument(
        "--dataset",
        default=default,
        metavar="auto|squad|pico|PATH|HUB_ID[:CONFIG]",
        help="questions: the hub's SQuAD, the embedded data, a file (JSON, JSON Lines, CSV, "
        "parquet) of questions about contexts or of prompts with completions, a folder of files "
        "train*, dev* or validation*, test*, or another hub id" + inherited,
    )
    parser.add_argument(
        "--difficulty",
        type=number(int, 1, 5),
        help="of the embedded data, 1 to 5: entities, types, paraphrase"
        + (f" ({DEFAULT_DIFFICULTY} if left out)" if default else inherited),
    )
    if trains:
        parser.add_argument(
            "--num_examples",
            type=positive_int,
            help="training questions to use, a seeded choice of whole paragraphs"
            + (inherited or "; all if left out"),
        )
    longest = inherited or "; default: what 99%% of the training answers need, within 16 to 128"
    parser.add_argument(
        "--max_answer_tokens",
        type=positive_int,
        help="longest answer at evaluation, in tokens, EOS included" + longest,
    )
    if not default:
        parser.add_argument(
            "--include_trained",
            action="store_true",
            help="evaluate also on contexts that an earlier stage was trained on, and mark the "
            "metrics; left out otherwise",
        )
    parser.add_argument("--strict_data", action="store_true",
                        help="refuse a file with unusable rows instead of dropping them")
    parser.add_argument("--answer_metric", choices=ANSWER_METRICS,
                        default=ANSWER_METRICS[0] if default else None,
                        help="what EM, F1, rewards and pairs compare: squad: words, as SQuAD v1.1 "
                        "has it; mixed: characters where a script has no blanks between words, "
                        "punctuation of every script left out" + inherited)
    parser.add_argument("--metric", metavar="MODULE:FUNCTION",
                        help="a function of your own, called as that of train_ppo.py --reward, "
                        "whose mean over the held-out answers is shown beside EM and F1"
                        + (inherited or "; none if left out"))


def add_training_flags(
    parser: Parser,
    *,
    lr: float,
    batch_size: int,
    epochs: float,
    warmup: float = 0.05,
    hold: float = 0.0,
    weight_decay: float = 0.0,
    save_every: int = 100,
) -> None:
    """Flags of every training stage: length, optimizer, logging, resuming; its own defaults."""
    add = parser.add_argument
    add("--output_dir", help="the stage's own folder; default checkpoints/{model_type}_{stage}")
    add("--epochs", type=positive, default=epochs, help="passes over the training data")
    add("--max_steps", type=positive_int, help="optimizer steps; overrides --epochs")
    add("--batch_size", type=positive_int, default=batch_size, help="contexts a step")
    add("--micro_batch_size", type=positive_int,
        help="contexts in memory at a time (same result); default: all of --batch_size")
    add("--micro_batch_tokens", type=positive_int, default=MICRO_BATCH_TOKENS,
        help="tokens in memory at a time, about (same result)")
    add("--lr", type=positive, default=lr, help="peak learning rate")
    add("--warmup", type=number(float, 0, 1, below=True), default=warmup,
        help="share of the run over which the rate rises from 0, below 1")
    add("--hold", type=share, default=hold,
        help="share of the run, warm-up included, after which the rate falls")
    add("--weight_decay", type=non_negative, default=weight_decay, help="on matrices only")
    add("--grad_clip", type=positive, default=1.0, help="largest norm of the gradient")
    add("--lora_rank", type=positive_int, help="train low-rank updates of the model's matrices "
        "instead of its weights, in less memory; final.pt has them added; default: train all")
    add("--eval_every", type=count,
        help="steps between evaluations; 0: only at the ends; default: a third of the run")
    add("--eval_limit", type=positive_int, default=500, help="held-out questions evaluated")
    add("--save_every", type=positive_int, default=save_every, help="steps between last.pt files")
    add("--log_every", type=positive_int, default=1, help="steps between lines of metrics.jsonl")
    add(
        "--tracker",
        choices=TRACKERS,
        default="none",
        help="send the log there too: tensorboard to the stage's folder, wandb to its service",
    )
    add("--resume", action="store_true", help="continue from last.pt with the stored flags")
    add("--overwrite", action="store_true", help="start anew over an existing run")
    add("--skip_nonfinite", action="store_true",
        help="leave out a step whose loss or gradient is not finite instead of stopping")
    add("--compile", action="store_true", help="torch.compile the models: slow to start")
    add("--shard", action="store_true", help="divide weights and optimizer among torchrun's ranks")


def note_pretrained_defaults(parser: Parser, stage: str) -> None:
    """Add the defaults of a pretrained start to the help; `Run.take_defaults` sets them."""
    when = "with --init_from" if stage == SFT else "from a pretrained start"
    for action in parser._actions:
        if action.dest in PRETRAINED_DEFAULTS[stage]:
            action.help += f"; {PRETRAINED_DEFAULTS[stage][action.dest]:g} {when}"


def add_parent_flag(parser: Parser) -> None:
    """--checkpoint: where a later stage starts."""
    parser.add_argument(
        "--checkpoint",
        help=f"parent checkpoint; default checkpoints/{{model_type}}_{SFT}/final.pt",
    )
