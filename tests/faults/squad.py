"""Mutated SQuAD files, through loading, encoding, windows, a training step and an evaluation.

Each case is a small file with one to three faults in it. It must be refused in one line, or train
with every question of the file either used or in the counts of what was dropped.
"""

import argparse
import contextlib
import copy
import io
import json
import random
import re
from pathlib import Path

import torch

import main_squad
from src.data.row_files import read_rows
from src.data.squad_dataset import indexed_batches
from src.data.squad_parse import LoadReport, rows_of
from src.data.tokenizers.tokenizer import load_tokenizer
from src.evaluation.evaluation_set import evaluate_policy
from src.model.model import build_model
from src.training import planning, run_data
from src.utils.constants import MODEL_TYPES
from src.utils.errors import UserError
from tests.faults.runs import small_squad

BLOCK = 96
SHAPES = {
    "transformer": {"n_layer": 1, "n_embd": 8, "n_head": 2, "block_size": BLOCK},
    "lstm": {"n_layer": 1, "n_embd": 8, "block_size": BLOCK},
    "kgram": {"n_layer": 1, "n_embd": 8, "kgram_k": 4, "block_size": BLOCK},
}
ODD = (
    None, True, False, 0, -1, 3, 10**6, 2**63, 10**30, -(10**30), 1.5, 1e308, float("nan"),
    float("inf"), "", " ", "\n", "0", "x", [], {}, [[]], [None], {"a": 1}, "\ud800", "a\udfffb",
    "\x00", "a\x00b", "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u202e",
    "\u200d\ufe0f",
    "\u0301" * 50, "<|endoftext|>", "Question: x\nAnswer:", "\u2028\r\n\t",
)
FILLERS = (" ", "\n", "\t", "\u3000", "a", "7", "\u0301", "!", "\U0001f642", "a ", "\n\n x",
           "\u05d0")
TEXT_PLACES = ("context", "question", "text", "title", "id")
# Counted by the answer, or by the paragraph: they take no question away by themselves.
NO_QUESTIONS = ("empty answer", "answer not at its answer_start", "paragraph without questions")
DROPPED = "data: dropped: "


def places(value, path=()):
    """Every place in a JSON value, as the path to it."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(child, (*path, key))


def holder_of(root, path):
    """What holds the place, so that it can be changed."""
    for step in path[:-1]:
        root = root[step]
    return root


def any_of(root, chooser, *names):
    """(holder, key) of a random place of one of these names, or of any place."""
    found = [p for p in places(root) if not names or p[-1] in names]
    path = chooser.choice(found or [("data",)])
    return holder_of(root, path), path[-1]


def odd_value(root, chooser):
    """Anything anywhere."""
    holder, key = any_of(root, chooser)
    holder[key] = copy.deepcopy(chooser.choice(ODD))


def missing(root, chooser):
    """A key or an item less."""
    holder, key = any_of(root, chooser)
    del holder[key]


def odd_text(root, chooser):
    """A text with something odd put into its middle."""
    holder, key = any_of(root, chooser, *TEXT_PLACES)
    text = holder.get(key)
    if isinstance(text, str):
        cut = chooser.randint(0, len(text))
        piece = chooser.choice([v for v in ODD if isinstance(v, str)])
        holder[key] = text[:cut] + piece + text[cut:]


def long_run(root, chooser):
    """A run of one thing, up to a million characters."""
    holder, key = any_of(root, chooser, *TEXT_PLACES)
    text = holder.get(key)
    if isinstance(text, str):
        filler = chooser.choice(FILLERS)
        run = filler * (10 ** chooser.choice((2, 3, 4, 4, 5, 6)) // len(filler))
        cut = chooser.choice((0, len(text), len(text) // 2))
        holder[key] = text[:cut] + run + text[cut:]


def same_id(root, chooser):
    """Two questions of one id, or questions of none."""
    holder, key = any_of(root, chooser, "id")
    holder[key] = chooser.choice(("0-0", "0-1", "", " "))


def moved_answer(root, chooser):
    """An answer that is not where it says."""
    holder, key = any_of(root, chooser, "answer_start")
    holder[key] = chooser.choice((0, 1, -1, -5, 10**9, 2**40, 57))


def unanswerable(root, chooser):
    """A row of v2.0."""
    holder, _ = any_of(root, chooser, "question")
    holder |= {"is_impossible": chooser.choice((True, True, False, 1)), "plausible_answers": []}
    if chooser.random() < 0.7:
        holder["answers"] = []


def many(root, chooser):
    """A list repeated: questions of one context, paragraphs, articles, answers."""
    holder, key = any_of(root, chooser, "qas", "paragraphs", "data", "answers")
    if isinstance(holder[key], list) and holder[key]:
        number = chooser.choice((2, 30, 1000))
        rows = [copy.deepcopy(chooser.choice(holder[key])) for _ in range(number)]
        for n, row in enumerate(rows):
            if isinstance(row, dict) and "id" in row and chooser.random() < 0.95:
                row["id"] = f"m{n}"
        holder[key] = rows


def empty(root, chooser):
    """A list or text emptied."""
    holder, key = any_of(root, chooser, "qas", "paragraphs", "data", "answers", "context", "text")
    holder[key] = type(holder[key])() if holder[key] is not None else ""


ON_VALUES = (odd_value, odd_value, missing, odd_text, odd_text, long_run, same_id, moved_answer,
             unanswerable, many, empty)


def mutate_bytes(content: bytes, chooser: random.Random) -> bytes:
    """The file cut short, with bytes changed, doubled or put in, or nested beyond reason."""
    kind = chooser.randrange(7)
    at = chooser.randrange(len(content) + 1)
    if kind == 0:
        return content[:at]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(chooser.choice((1, 1, 3, 20))):
            changed[chooser.randrange(len(changed))] ^= 1 << chooser.randrange(8)
        return bytes(changed)
    if kind == 2:
        return content[:at] + content[at + chooser.randint(1, 50) :]
    if kind == 3:
        return content[:at] + chooser.randbytes(chooser.randint(1, 20)) + content[at:]
    if kind == 4:
        deep = chooser.choice((b"[", b'{"a":')) * chooser.choice((50, 2000, 200_000))
        return content[:at] + deep + content[at:]
    if kind == 5:
        numbers = [m for m in re.finditer(rb"\d+", content)]
        m = chooser.choice(numbers)
        big = chooser.choice((b"9" * 30, b"9" * 5000, b"1e999", b"-0", b"0x1", b"NaN", b"1.0"))
        return content[: m.start()] + big + content[m.end() :]
    return chooser.choice((
        b"\xef\xbb\xbf" + content, content.decode().encode("utf-16"), content + content,
        content + b"\x00" * 100, b"\x1f\x8b" + content,
    ))


def mutated(seed: int, number: int) -> bytes:
    """The file of a case."""
    chooser = random.Random(f"squad/{seed}/{number}")
    root = small_squad(chooser.choice((2, 4, 6)))
    on_bytes = chooser.random() < 0.25
    for _ in range(0 if on_bytes else chooser.choice((1, 1, 2, 3))):
        # A fault may leave nothing for the next one to hold on to.
        with contextlib.suppress(KeyError, TypeError, IndexError, AttributeError):
            chooser.choice(ON_VALUES)(root, chooser)
    content = json.dumps(root, ensure_ascii=chooser.random() < 0.5).encode(errors="surrogatepass")
    return mutate_bytes(content, chooser) if on_bytes else content


def through(path: Path, model_type: str) -> dict:
    """Load, encode, train a step, evaluate: {"refused": line}, or what was used and dropped."""
    args = argparse.Namespace(
        dataset=str(path), difficulty=None, num_examples=None, strict_data=False, eval_limit=4,
        seed=0, max_answer_tokens=None, micro_batch_size=None, micro_batch_tokens=10**9,
        lm_weight=0.3, max_steps=1, eval_every=1, epochs=1.0, answer_metric="squad", metric=None,
    )
    tokenizer = load_tokenizer("pico")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            questions = run_data.load_questions(args, tokenizer, BLOCK, "main_squad")
            planning.plan_steps(args, questions.units)
    except UserError as error:
        return {"refused": str(error)}
    torch.manual_seed(0)
    model = build_model(model_type, {"vocab_size": tokenizer.vocab_size, **SHAPES[model_type]})
    batch = next(indexed_batches(questions.encoded, questions.units, batch_size=4, seed=0))
    record = main_squad.sft_backward(model, batch.trees, tokenizer.eos_id, args)
    evaluate_policy(model, tokenizer, questions.held_out)
    identity = questions.identity
    lines = said.getvalue().splitlines()
    dropped = [line.removeprefix(DROPPED) for line in lines if line.startswith(DROPPED)]
    return {
        "used": identity["train_questions"] + identity["validation_questions"],
        "dropped": dropped,
        "finite": all(map(torch.isfinite, map(torch.tensor, record.values()))),
    }


def judge(path: Path, outcome: dict) -> str:
    """What is wrong with how a file fared, or ""."""
    if "refused" in outcome:
        line = outcome["refused"]
        good = "\n" not in line and str(path) in line and len(line) < 600
        return "" if good else f"no clear line: {line!r}"
    root = read_rows(path)
    asked = len(list(rows_of(root, str(path), LoadReport())))
    counts = [re.match(r"(\d+) ([^;]+);", line).groups() for line in outcome["dropped"]]
    dropped = sum(int(n) for n, reason in counts if reason not in NO_QUESTIONS)
    if asked != outcome["used"] + dropped:
        return f"{asked} questions, {outcome['used']} used, told: {outcome['dropped']}"
    return "" if outcome["finite"] else "the loss is not finite"


def case(seed: int, number: int, folder: Path):
    """(work for a child, judgement of its value) of a case."""
    path = folder / f"case{number}.json"
    path.write_bytes(mutated(seed, number))
    model_type = MODEL_TYPES[number % len(MODEL_TYPES)]
    return lambda: through(path, model_type), lambda outcome: judge(path, outcome)
