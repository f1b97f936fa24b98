"""Read prompts from flags, JSON-lines files and pipes."""

import argparse
import json
import sys

from src.data.encoding import encode_prompt, split_prompt
from src.data.squad_loader import load_from_identity
from src.data.tokenizers.tokenizer import Tokenizer
from src.data.trained_contexts import split_by_training
from src.data.windows import cut_context
from src.utils.checkpoint_utils import Checkpoint
from src.utils.errors import UserError
from src.utils.progress_bar import one_line, say

# (context, question), or (None, raw prompt)
Prompt = tuple[str | None, str]


def prompts_of_file(path: str) -> list[Prompt]:
    """The prompt of each line of a JSON-lines file."""
    try:
        with open(path, encoding="utf-8-sig") as file:  # Windows' editors begin with a BOM
            lines = [(n, line) for n, line in enumerate(file, 1) if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"--prompts_file {path} given, expected JSON lines ({error})") from None
    prompts = []
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        keys = set(row) if isinstance(row, dict) else set()
        wanted = ("context", "question") if {"context", "question"} <= keys else ("prompt",)
        if not set(wanted) <= keys or not all(isinstance(row[k], str) for k in wanted):
            raise UserError(
                f"--prompts_file {path} line {number}: expected a JSON object with texts under "
                "prompt, or under context and question"
            )
        prompts.append((row.get("context") if len(wanted) == 2 else None, row[wanted[-1]]))
    if not prompts:
        raise UserError(f"--prompts_file {path} given, expected JSON lines, found an empty file")
    return prompts


def typed_text(text: str) -> str:
    r"""A text from a flag, a terminal or a pipe, where a line end is hard to type: a written \n
    stands for it.

    >>> typed_text(r"Question: Who?\nAnswer:")
    'Question: Who?\nAnswer:'
    """
    return text.replace("\\n", "\n")


def prompts_of_pipe() -> list[Prompt]:
    """The lines of standard input as `typed_text`; none if it is closed."""
    try:
        text = "".join(sys.stdin or ()).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input given, expected UTF-8 text ({error})") from None
    lines = (line.removesuffix("\r") for line in text.split("\n"))  # Linux keeps Windows' line ends
    return [(None, typed_text(line)) for line in lines if line.strip()]


def prompts_of_flags(args: argparse.Namespace, checkpoint: Checkpoint) -> list[Prompt]:
    """All prompts, except those typed at a terminal: (context, question) or (None, prompt)."""
    if args.prompt is not None:
        return [(None, typed_text(args.prompt))]
    if args.question is not None:
        return [(typed_text(args.context), typed_text(args.question))]
    if args.prompts_file is not None:
        return prompts_of_file(args.prompts_file)
    piped = prompts_of_pipe()
    if piped:
        return piped
    if not checkpoint.data:
        raise UserError(
            f"no prompt given with {checkpoint.path}, which was trained on no questions here, "
            "expected --prompt, or --context and --question"
        )
    validation = load_from_identity(checkpoint.data).validation
    paragraphs = split_by_training(validation, checkpoint.trained_on)[0][:3]
    if not paragraphs:
        raise UserError(
            f"no prompt given, and no held-out question is left of {checkpoint.data['dataset']}: "
            "all its contexts were trained on, expected --prompt, or --context and --question"
        )
    say("no prompt given: three held-out questions")
    asked = [(p.context if p.template else None, p.questions[0]) for p in paragraphs]
    for _, question in asked:
        say(f"  Q: {one_line(question.text)}  gold: {question.answers[0]!r}")
    return [(context, question.text) for context, question in asked]


def encode_within(
    tokenizer: Tokenizer, prompt: Prompt, room: int, advice: str, template: bool = True
) -> tuple[list[int], list[int]]:
    """(context ids, question ids) of at most `room` tokens. The context is cut as at evaluation,
    with a message.

    advice: what to do if a prompt is too long without its context. template: False for a model of
    custom prompts, which are encoded as they are.
    Raises UserError if the prompt is empty or too long.
    """
    context, question = prompt
    if not question.strip():
        raise UserError("an empty prompt given, expected some text")
    if context is not None and not template:
        raise UserError(
            "a context and a question given to a model that was trained on prompts of your own, "
            "expected the whole prompt (--prompt, or prompt in --prompts_file)"
        )
    if context is not None:
        ids = encode_prompt(tokenizer, context, question)
    else:
        parts = split_prompt(question) if template else ("", question)
        ids = tuple(map(tokenizer.encode, parts))
    most = room - bool(ids[0])  # at least the context's line end stays
    if len(ids[1]) > most:
        raise UserError(
            f"a prompt of {len(ids[1])} tokens given (without its context), expected at most "
            f"{most} beside the answer, {advice}"
        )
    kept = cut_context(ids[0], room - len(ids[1]))
    if len(kept) < len(ids[0]):
        say(f"the context is cut to its first {len(kept)} of {len(ids[0])} tokens: a longer one "
            "does not fit the model's block beside question and answer")
    return kept, ids[1]
