"""One row of a preference file -> prompt, chosen and rejected, whatever its shape.

A row has one of four shapes.

- {"prompt", "chosen", "rejected"}: texts.
- {"context", "question", "chosen", "rejected"}: texts, asked as SQuAD's questions are.
- "chosen" and "rejected" are lists of {"role", "content"} messages. Both begin with the same
  messages and end with one answer each. A "prompt" (a text or messages) may stand beside them.
- {"chosen", "rejected"}: two texts of the same dialogue. Their common beginning is the prompt.
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from src.data.encoding import split_prompt
from src.data.row_files import literal
from src.data.squad_parse import (
    BadRow,
    LoadReport,
    kind_of,
    sound_text,
    text_of,
    with_id,
)

EXPECTED_ROWS = "rows of prompt (or context and question), chosen and rejected"
# Who answers, in the dialogues that people publish.
_ANSWERERS = ("assistant", "model", "gpt", "bot", "ai", "chosen", "rejected")
# The start of a speaker's turn in a dialogue that is one text.
_TURN = re.compile(
    r"(?:^|\n)[^\S\n]*(?:human|user|assistant|system|ai|bot|model|question|answer|q|a)\s?:",
    re.IGNORECASE,
)


class PreferenceRow(NamedTuple):
    """context: None where `question` is the whole prompt, in the user's own words."""

    context: str | None
    question: str
    chosen: str
    rejected: str

    def prompt(self) -> tuple[str | None, str]:
        """The (context, question) that both answers belong to."""
        return self.context, self.question


def parse_pairs(rows: Iterable[tuple[str, Any]], report: LoadReport) -> list[PreferenceRow]:
    """The usable rows, in order; what is dropped is counted in the report by reason."""
    found = []
    for place, row in rows:
        try:
            found.append(read_pair(row))
        except BadRow as fault:
            report.drop(str(fault), with_id(place, row))
    return found


def read_pair(row: Any) -> PreferenceRow:
    """A row's pair; BadRow, with the reason, where it cannot be used."""
    if not isinstance(row, dict):
        raise BadRow(f"{kind_of(row)} where an object belongs")
    if row.get("vote") == "tie":
        raise BadRow("a tie")
    for key in ("chosen", "rejected"):
        if key not in row:
            raise BadRow(f"no {key!r}")
    sides = [_messages(row["chosen"]), _messages(row["rejected"])]
    if (sides[0] is None) != (sides[1] is None):
        raise BadRow("one of chosen and rejected is a list of messages, the other is not")
    context = None
    if sides[0] is not None:
        before = _messages(row.get("prompt"))
        text = before is None and not _is_empty(row.get("prompt"))
        given = text_of(row, "prompt") if text else ""
        prompt, chosen, rejected = _of_messages(*sides, before or [], given)
    else:
        chosen, rejected = (text_of(row, key) for key in ("chosen", "rejected"))
        asked = [row[key] for key in ("context", "question") if key in row]
        # A table may have both kinds of columns, of which a row fills one.
        only_prompt = all(map(_is_empty, asked)) and not _is_empty(row.get("prompt"))
        if asked and not only_prompt:
            context, prompt = text_of(row, "context"), text_of(row, "question")
        elif row.get("prompt") is not None:
            before = _messages(row["prompt"])
            prompt = text_of(row, "prompt") if before is None else prompt_of_messages(before)
        else:
            prompt, chosen, rejected = _of_dialogues(chosen, rejected)
    chosen, rejected = chosen.strip(), rejected.strip()
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not text:
            raise BadRow(f"empty {name}")
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    return PreferenceRow(context, prompt, chosen, rejected)


def in_template(row: PreferenceRow) -> PreferenceRow:
    """The row. A prompt that has the form of our template (`Context: ...`, `Question: ... Answer:`)
    is split into its context and question.
    """
    if row.context is not None:
        return row
    context, question = split_prompt(row.question)
    if not context:
        return row
    return row._replace(
        context=context.removeprefix("Context: ").strip(),
        question=question.removeprefix("Question: ").removesuffix("\nAnswer:"),
    )


def _is_empty(value: Any) -> bool:
    """Whether a cell of a table holds nothing."""
    return value is None or value == ""


def _messages(value: Any) -> list[tuple[str, str]] | None:
    """(role, content) of each message; None where the value is no list. CSV has lists as texts."""
    if isinstance(value, str) and re.match(r"\s*\[\s*\{", value):
        read = literal(value)
        value = read if _is_list_of_messages(read) else value
    if not isinstance(value, list):
        return None
    messages = []
    for message in value:
        if not isinstance(message, dict):
            raise BadRow(f"{kind_of(message)} where a message of role and content belongs")
        messages.append((text_of(message, "role").strip().lower(), _content(message)))
    return messages


def _is_list_of_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(message, dict) and {"role", "content"} <= set(message) for message in value
    )


def _content(message: dict) -> str:
    """A message's text, which may be empty: the pair is then dropped as such."""
    if "content" not in message:
        raise BadRow("a message without 'content'")
    if not isinstance(message["content"], str):
        raise BadRow(f"a message's content is {kind_of(message['content'])}, expected text")
    return sound_text(message["content"], "content")


def _of_messages(
    chosen: list[tuple[str, str]],
    rejected: list[tuple[str, str]],
    before: list[tuple[str, str]],
    given: str,
) -> tuple[str, str, str]:
    """(prompt, chosen, rejected). The prompt is the messages that both sides begin with, else the
    messages before. `given`, a prompt that is a text, counts only if there are no such messages.
    """
    shared = os.path.commonprefix([chosen, rejected])
    if shared and len(shared) == min(len(chosen), len(rejected)):
        if len(chosen) == len(rejected):
            raise BadRow("chosen and rejected are the same")
        raise BadRow("one of chosen and rejected has no answer after the messages of both")
    rests = chosen[len(shared) :], rejected[len(shared) :]
    if min(map(len, rests)) == 0:
        raise BadRow("no message in chosen or rejected")
    if max(map(len, rests)) > 1:
        raise BadRow("several messages after those that chosen and rejected share, expected one")
    for ((role, _),) in rests:
        if role not in _ANSWERERS:
            raise BadRow(f"the last message is of role {role[:20]!r}, expected assistant")
    prompt = prompt_of_messages(shared or before) if shared or before else given
    if not prompt.strip():
        raise BadRow("no prompt: no messages before the answers")
    return prompt, rests[0][0][1], rests[1][0][1]


def prompt_of_messages(messages: Sequence[tuple[str, str]]) -> str:
    """Messages as a prompt. A user's single message is the prompt as it is. If there are several,
    each follows the name of its role, and the answerer's name comes last.

    >>> prompt_of_messages([("user", "Hi"), ("assistant", "Hello!"), ("user", "Who are you?")])
    'User: Hi\\n\\nAssistant: Hello!\\n\\nUser: Who are you?\\n\\nAssistant:'
    """
    if len(messages) == 1:
        return messages[0][1]
    turns = [f"{role.capitalize()}: {content.strip()}" for role, content in messages]
    return "\n\n".join([*turns, "Assistant:"])


def _of_dialogues(chosen: str, rejected: str) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of two whole dialogues. The prompt ends after the last speaker's
    name that they share ("Assistant:"), else after the last line or word that they share.
    """
    shared = os.path.commonprefix([chosen, rejected])
    turns = [turn.end() for turn in _TURN.finditer(shared)]
    cut = turns[-1] if turns else shared.rfind("\n") + 1 or shared.rfind(" ") + 1
    if not shared[:cut].strip():
        raise BadRow("no 'prompt', and chosen and rejected begin differently")
    return shared[:cut].rstrip(" "), chosen[cut:], rejected[cut:]
