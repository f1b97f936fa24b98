"""Held-out questions with every policy's answer side by side, right and wrong words marked.

The page is English; these texts carry their own language, and each its own direction.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from src.data.answer_text import answer_tokens
from src.data.segmentation import language_of, pieces
from src.evaluation.evaluation_set import EvaluationSet, PolicyResult
from src.evaluation.squad_metrics import f1_score
from src.report.html import Markup, join, tag


def marked_words(
    answer: str, golds: Sequence[str], metric: str = "squad"
) -> list[tuple[str, bool | None]]:
    """The answer's words, each right or wrong against the gold that it is nearest to; None for
    words that do not count (articles, bare punctuation). By the mixed metric, words are characters
    where a script has no blanks.

    A word is right as often as the gold has it, so right words are those that F1 counts.

    >>> marked_words("the red red fox", ["Red Fox"])
    [('the', None), ('red', True), ('red', False), ('fox', True)]
    """
    gold = max(golds, key=lambda g: f1_score(answer, [g], metric))
    left = Counter(answer_tokens(gold, metric))
    words: list[tuple[str, bool | None]] = []
    for word in pieces(answer) if metric == "mixed" else answer.split():
        # One written word can be several to the metric, as "a.b" is one and "an–other" two.
        parts = answer_tokens(word, metric)
        right = bool(parts) and all(left[part] > 0 for part in parts)
        if right:
            left.subtract(parts)
        words.append((word, right if parts else None))
    return words


def answer_cell(
    name: str, answer: str, golds: Sequence[str], exact: bool, metric: str = "squad"
) -> Markup:
    """A cell: whether the answer is exact, and its words marked by more than colour."""
    cell: list[object] = []
    end = 0
    for word, right in marked_words(answer, golds, metric):
        start = answer.index(word, end)
        if cell and start > end:
            cell.append(" ")
        end = start + len(word)
        kind = {True: "right", False: "wrong", None: None}[right]
        cell.append(tag("mark", word, class_=kind) if kind else word)
    if not cell:
        cell = [tag("span", "(no words)", class_="faint", lang="en")]
    sign = tag("span", "✓ " if exact else "✗ ", title="exact" if exact else "not exact")
    return tag("td", sign, *cell, data_policy=name, dir="auto")


def few_answers(
    held_out: EvaluationSet, policies: dict[str, PolicyResult], count: int = 3
) -> Markup:
    """The questions where the policies differ most, and how they were chosen."""
    rows = _rows(held_out, policies)
    chosen = ", those where the answers differ most" if len(policies) > 1 else ""
    words = f"{len(rows[:count])} of {len(rows)} held-out questions{chosen}. "
    link = tag("a", "All of them", href="#answers")
    return join([tag("p", words, link, class_="faint"), _table(rows[:count], held_out, policies)])


def answers_table(
    number: int, held_out: EvaluationSet, policies: dict[str, PolicyResult]
) -> Markup:
    """All questions, and a choice of their order; those where policies differ most come first."""
    names = list(policies)
    orders = {"differ -1": "where they differ most", "order 1": "as in the data",
              "mean 1": "where most are wrong"}
    if len(names) > 1:
        orders["gain -1"] = f"where {names[-1]} gains most over {names[0]}"
        orders["gain 1"] = f"where {names[-1]} loses most against {names[0]}"
    table = f"answers-{number}"
    select = tag(
        "select", *(tag("option", words, value=key) for key, words in orders.items()),
        data_sorts=table, id=f"sort-{number}",
    )
    return join([
        tag("p", tag("label", "Sort by ", for_=f"sort-{number}"), select, class_="sorting"),
        _table(_rows(held_out, policies), held_out, policies, id=table),
    ])


def _table(
    rows: Sequence[Markup], held_out: EvaluationSet, names: Iterable[str], **attributes: str
) -> Markup:
    language = language_of(" ".join(f"{a.question} {a.context}" for a in held_out.examples))
    heads = ("Question", "Gold", *names)
    return tag(
        "table",
        tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
        tag("tbody", *rows, lang=language),
        class_="answers", **attributes,
    )


def _rows(held_out: EvaluationSet, policies: dict[str, PolicyResult]) -> list[Markup]:
    """A row a question, first where the policies differ most: in F1, then in their words."""
    rows = []
    for index, example in enumerate(held_out.examples):
        points = [result.f1[index] for result in policies.values()]
        answers = {name: result.answers[index] for name, result in policies.items()}
        differ = max(points) - min(points) + 0.01 * (len(set(answers.values())) - 1)
        context = tag(
            "details", tag("summary", "context", lang="en"),
            tag("div", example.context, dir="auto"),
        )
        golds = " / ".join(dict.fromkeys(example.golds))
        cells = [
            tag("td", tag("div", example.question, dir="auto"), context),
            tag("td", golds, data_policy="gold", dir="auto"),
            *(
                answer_cell(name, answers[name], example.golds, bool(result.em[index]),
                            held_out.metric)
                for name, result in policies.items()
            ),
        ]
        rows.append((differ, tag(
            "tr", *cells, data_order=index, data_differ=f"{differ:.4f}",
            data_gain=f"{points[-1] - points[0]:.4f}", data_mean=f"{sum(points) / len(points):.4f}",
        )))
    return [row for _, row in sorted(rows, key=lambda row: -row[0])]
