"""Operations on whole lists of paragraphs: count, hash, sample, split, and share beginnings."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from random import Random

from src.data.squad_parse import LoadReport
from src.data.squad_types import NO_PLACE, Paragraph, single_blanks
from src.utils.errors import UserError

VALIDATION_SHARE = 0.1  # of the questions of data without a split of their own
# A beginning that prompts share is a context from here on: a batch counts contexts.
SHARED_CHARACTERS = 200
# ... of so many prompts at most, as many as a context group has questions.
MOST_SHARING = 16


def count_questions(paragraphs: Sequence[Paragraph]) -> int:
    """Questions of all paragraphs together."""
    return sum(len(paragraph.questions) for paragraph in paragraphs)


def content_hash(paragraphs: Sequence[Paragraph]) -> str:
    """sha256 over all text and positions, as JSON, so that no two contents look alike."""
    digest = hashlib.sha256()
    for paragraph in paragraphs:
        fields = paragraph[:3] if paragraph.template else paragraph
        digest.update(json.dumps(fields).encode())
    return digest.hexdigest()


def split_by_title(
    paragraphs: list[Paragraph], source: str, report: LoadReport
) -> dict[str, list[Paragraph]]:
    """Train and validation of data without a split: titles with about a tenth of the questions are
    held out, at least one; contexts where there is one title only.

    Titles are taken in the order of their hashes, so every stage splits alike, whatever its seed. A
    title is held out if that brings the count of questions nearer to a tenth.
    """
    unit, key = "title" if paragraphs[0].template else "prompt", _title
    sizes = _questions_by(paragraphs, key)
    if len(sizes) == 1:
        unit, key = "context", _context
        sizes = _questions_by(paragraphs, key)
    if len(sizes) == 1:
        raise UserError(
            "; ".join([
                f"--dataset {source}: the usable questions ({count_questions(paragraphs)}) are on "
                "one context or prompt, which cannot be split; expected two, or a folder of train "
                "and validation files",
                *report.lines(),
            ])
        )
    order = sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest())
    wanted, held, held_out = VALIDATION_SHARE * sum(sizes.values()), 0, set()
    for name in order:
        if abs(held + sizes[name] - wanted) < abs(held - wanted):
            held_out.add(name)
            held += sizes[name]
    held_out = held_out or {min(order, key=sizes.__getitem__)}
    parts = {
        "train": [p for p in paragraphs if key(p) not in held_out],
        "validation": [p for p in paragraphs if key(p) in held_out],
    }
    train, validation = map(count_questions, parts.values())
    report.notes.append(
        f"{source} has no validation split; by {unit}, {len(held_out)} of {len(sizes)} are held "
        f"out: {train} questions to train on, {validation} held out"
    )
    return parts


def _questions_by(
    paragraphs: Sequence[Paragraph], key: Callable[[Paragraph], str]
) -> dict[str, int]:
    """Questions of each title or context."""
    sizes: dict[str, int] = {}
    for paragraph in paragraphs:
        sizes[key(paragraph)] = sizes.get(key(paragraph), 0) + len(paragraph.questions)
    return sizes


def _title(paragraph: Paragraph) -> str:
    return paragraph.title


def _context(paragraph: Paragraph) -> str:
    return paragraph.context.strip()


def _text(paragraph: Paragraph) -> str:
    """The context or, of the user's own, the prompt; blanks aside, as in `context_hash`."""
    return single_blanks(paragraph.context if paragraph.template else paragraph.title)


def disjoint(
    train: list[Paragraph], validation: list[Paragraph], report: LoadReport
) -> list[Paragraph]:
    """The training paragraphs whose title and context are not in validation; where no other title
    is left, as where all have the same, those whose context is not. A prompt of the user's own must
    not be in validation, whatever is left.
    """
    titles = {p.title for p in validation}
    texts = set(map(_text, validation))
    kept = [p for p in train if _text(p) not in texts]
    apart = [p for p in kept if p.title not in titles]
    if kept and not apart:
        report.notes.append(
            "every title of the training split is in the validation split too: they are kept apart "
            "by context only"
        )
    report.drop(
        "training questions on an article, context or prompt of the validation split",
        "the training split",
        count_questions(train) - count_questions(apart or kept),
    )
    return apart or kept


def with_places(paragraphs: list[Paragraph], report: LoadReport) -> list[Paragraph]:
    """Training paragraphs with the golds whose place is known only; evaluation compares texts and
    keeps them all. Prompts of the user's own have no places.
    """
    result = []
    for paragraph in paragraphs:
        questions = []
        for question in paragraph.questions:
            golds = [g for g in zip(question.answers, question.starts, strict=True)
                     if g[1] != NO_PLACE]
            place = f"question id {question.id}"
            if not paragraph.template or len(golds) == len(question.answers):
                questions.append(question)
                continue
            missing = len(question.answers) - len(golds)
            report.drop("answer not at its answer_start", place, missing)
            if golds:
                answers, starts = zip(*golds, strict=True)
                questions.append(question._replace(answers=answers, starts=starts))
            else:
                report.drop("question left without answers", place)
        if questions:
            result.append(paragraph._replace(questions=tuple(questions)))
    return result


def note_no_places(paragraphs: Sequence[Paragraph], report: LoadReport) -> None:
    """Say how many golds `with_places` would drop from training, that evaluation keeps."""
    starts = [s for p in paragraphs if p.template for q in p.questions for s in q.starts]
    if NO_PLACE in starts:
        report.notes.append(
            f"{starts.count(NO_PLACE)} held-out answers are not at their answer_start and are kept:"
            " evaluation compares texts"
        )


def sample(paragraphs: list[Paragraph], questions: int | None, seed: int) -> list[Paragraph]:
    """Whole paragraphs, drawn until they hold this many questions, in their old order."""
    if questions is None or count_questions(paragraphs) <= questions:
        return paragraphs
    rng = Random(f"sample-{seed}")
    order = sorted(range(len(paragraphs)), key=lambda _: rng.random())
    taken = len(first([paragraphs[i] for i in order], questions))
    return [paragraphs[i] for i in sorted(order[:taken])]


def first(paragraphs: list[Paragraph], questions: int) -> list[Paragraph]:
    """The shortest beginning of the list with at least this many questions."""
    held = 0
    for number, paragraph in enumerate(paragraphs):
        if held >= questions:
            return paragraphs[:number]
        held += len(paragraph.questions)
    return paragraphs


def share_beginnings(paragraphs: list[Paragraph]) -> list[Paragraph]:
    """Training prompts of the user's own: those that begin alike, for SHARED_CHARACTERS and half of
    each at least, as paragraphs of that context, which a batch reads once. A paragraph has up to
    MOST_SHARING prompts.
    """
    if not paragraphs or paragraphs[0].template:
        return paragraphs
    groups: list[tuple[str, list[int]]] = []  # (beginning, paragraphs)
    longest = 0
    for i in sorted(range(len(paragraphs)), key=lambda i: _prompt(paragraphs[i])):
        prompt = _prompt(paragraphs[i])
        more = groups and len(groups[-1][1]) < MOST_SHARING
        shared = os.path.commonprefix([groups[-1][0], prompt]) if more else ""
        longest = max(longest, len(prompt))
        if len(shared) >= max(SHARED_CHARACTERS, longest / 2):
            groups[-1] = (shared, groups[-1][1])
            groups[-1][1].append(i)
        else:
            groups.append((prompt, [i]))
            longest = len(prompt)
    return [
        paragraph
        for shared, members in groups
        for paragraph in _joined(len(shared), [paragraphs[i] for i in sorted(members)])
    ]


def _prompt(paragraph: Paragraph) -> str:
    return paragraph.questions[0].text


def _joined(shared: int, members: list[Paragraph]) -> list[Paragraph]:
    """One paragraph of prompts that share so many characters, or all of them as they are."""
    prompts = [_prompt(p) for p in members]
    ends = range(min(shared, min(map(len, prompts)) - 1), 0, -1)
    end = next((i for i in ends if all(_may_cut(prompt, i) for prompt in prompts)), 0)
    if len(members) == 1 or not end:
        return members
    beginning = prompts[0][:end]
    return [Paragraph(beginning, beginning, tuple(p.questions[0] for p in members), False)]


def _may_cut(text: str, at: int) -> bool:
    """Whether tokenizers see text[:at] and text[at:] apart anyway: a line or a word begins there.
    """
    before, here, after = text[at - 1], text[at], text[at + 1 : at + 2]
    if here == " ":
        return not before.isspace() and not after.isspace() and after != ""
    return before == "\n" and not here.isspace()
