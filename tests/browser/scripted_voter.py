"""Votes for one style through the voting page itself, with some mistakes; docs/be_the_human.md has
what came of such votes.

    python -m tests.browser.scripted_voter --checkpoint checkpoints/kgram_main_squad/final.pt \
        --votes 100 --seed 0 --preferences short.jsonl

The voter likes short answers, and calls it a tie where both are short or both are long.
"""

import argparse
import random
import tempfile
from pathlib import Path

from tests.browser.conftest import Browser
from tests.browser.test_vote_page import Served, Voter

# Most words of a short answer: of the embedded data's golds hardly any has more, and no sentence
# has as few.
SHORT = 4


def short(prediction, golds, context, question):
    """1 for an answer in the style that is voted for. For --metric."""
    return float(len(prediction.split()) <= SHORT)


def vote(voter, rng, mistakes):
    """One vote; returns whether it was a preference."""
    a, b = (short(answer, (), "", "") for answer in voter.answers())
    if a == b:
        voter.key("t")
        return False
    liked, other = ("a", "b") if a > b else ("b", "a")
    voter.key(other if rng.random() < mistakes else liked)
    return True


def main(argv=None):
    """Vote until there are so many preferences."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--checkpoint", required=True)
    add("--votes", type=int, default=100, help="preferences; ties are not counted")
    add("--mistakes", type=float, default=0.1, help="share of votes that go the wrong way")
    add("--seed", type=int, default=0)
    add("--preferences", required=True, help="the file of votes, a new one")
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    file = Path(args.preferences).resolve()
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--checkpoint", str(Path(args.checkpoint).resolve()), "--seed", str(args.seed)]
        served = Served(file.parent, [*flags, "--preferences", str(file)])
        browser = Browser(folder)
        try:
            voter = Voter(browser, served.url)
            preferences = 0
            while preferences < args.votes:
                preferences += vote(voter, rng, args.mistakes)
            print(f"{preferences} preferences and the ties are in {file}")
        finally:
            browser.driver.quit()
            served.kill()


if __name__ == "__main__":
    main()
