"""A task that is not reading comprehension: write a date as 1804-05-03, whatever way it comes in.

    python examples/dates.py dates.jsonl

Writes rows of {"prompt", "completion"}, which `main_squad.py --dataset dates.jsonl` takes. Nothing
is fetched: a seed decides everything. A date occurs once, so no held-out date was trained on.

`parts_right` and `valid` are rewards for it (train_ppo.py --reward), and `valid` a metric
(--metric).
"""

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)
DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
YEARS = (1700, 2030)
ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)")


def written(day: int, month: int, year: int, rng: random.Random) -> str:
    """A date in one of the ways in which people write it.

    >>> written(3, 5, 1804, random.Random(0))
    'the 3rd of May 1804'
    """
    name, short = MONTHS[month - 1], MONTHS[month - 1][:3]
    ending = "th" if 10 <= day <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    ways = (
        f"{day} {name} {year}",
        f"{name} {day}, {year}",
        f"{day} {short}. {year}",
        f"the {day}{ending} of {name} {year}",
        f"{name} {day}{ending}, {year}",
        f"{day}.{month}.{year}",
    )
    return ways[rng.randrange(len(ways))]


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """So many rows of different dates.

    >>> rows(1, 1)[0]["completion"]
    '1748-04-02'
    """
    rng = random.Random(seed)
    dates = [
        (day, month, year)
        for year in range(*YEARS)
        for month in range(1, 13)
        for day in range(1, DAYS[month - 1] + 1)
    ]
    return [
        {
            "prompt": f"Date: {written(day, month, year, rng)}\nISO:",
            "completion": f"{year}-{month:02}-{day:02}",
        }
        for day, month, year in rng.sample(dates, count)
    ]


def valid(prediction: str, golds: Sequence[str], context: str, question: str) -> float:
    """1 for a date that exists in the form wanted, right or wrong; else 0.

    >>> valid("1804-05-03", (), "", ""), valid("1804-13-03", (), "", ""), valid("May", (), "", "")
    (1.0, 0.0, 0.0)
    """
    found = ISO.fullmatch(prediction)
    if not found:
        return 0.0
    _, month, day = map(int, found.groups())
    return float(1 <= month <= 12 and 1 <= day <= DAYS[month - 1])


def parts_right(prediction: str, golds: Sequence[str], context: str, question: str) -> dict:
    """The share of year, month and day that are right, with each as a part for the log.

    >>> parts_right("1804-05-04", ("1804-05-03",), "", "")["reward"]
    0.6666666666666666
    """
    said, wanted = (text.split("-") for text in (prediction, golds[0]))
    right = [len(said) == 3 and said[i] == wanted[i] for i in range(3)]
    named = zip(("year", "month", "day"), map(float, right), strict=True)
    return {"reward": sum(right) / 3, **dict(named)}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", help="JSON Lines file to write")
    parser.add_argument("--count", type=int, default=8000, help="rows, default 8000")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of dates, default 0")
    args = parser.parse_args(argv)
    most = len(range(*YEARS)) * sum(DAYS)
    if not 1 <= args.count <= most:
        parser.error(f"--count {args.count}: expected 1 to {most}, the dates that there are")
    text = "".join(json.dumps(row) + "\n" for row in rows(args.count, args.seed))
    try:
        Path(args.file).write_text(text, encoding="utf-8")
    except OSError as error:
        parser.error(f"{args.file}: {error.strerror}; expected a file that can be written")
    print(f"{args.file}: {args.count} rows")


if __name__ == "__main__":
    main()
