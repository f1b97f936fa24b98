"""The three roles of training data: demonstrations for SFT, comparisons for DPO and the reward
model, prompts for RL (Ouyang et al. 2022, 2203.02155, section 3.2 and table 6).

Articles are dealt by title, so no stage reads a context that SFT has trained on. A gain over the
finished SFT model then does not come from reading the same questions again. Prompts of the user's
own have no article: those that share a long beginning are dealt apart, so a later stage may read
a passage in them that SFT has read with another question.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

from src.data.squad_splits import share_beginnings
from src.data.squad_types import Paragraph
from src.utils.constants import DPO, PPO, REWARD, SFT
from src.utils.errors import UserError

ROLES = ("demonstrations", "comparisons", "prompts")
ROLE_OF_STAGE = {SFT: ROLES[0], DPO: ROLES[1], REWARD: ROLES[1], PPO: ROLES[2]}


def deal(
    paragraphs: Sequence[Paragraph], shares: str, seed: int
) -> dict[str, list[Paragraph]]:
    """Role -> its paragraphs, in their old order. shares: percent of the questions for each
    role, as `--shares` takes them: "30,40,30".

    Titles are dealt from the largest on, equal ones in a seeded order, each to the role that is
    furthest below its share. Prompts of the user's own are dealt one by one, whatever beginning
    they share.
    Raises UserError where a role with a share gets nothing.
    """
    paragraphs = [one for paragraph in paragraphs for one in _apart(paragraph)]
    questions = Counter()
    for paragraph in paragraphs:
        questions[paragraph.title] += len(paragraph.questions)
    percents = zip(ROLES, map(int, shares.split(",")), strict=True)
    wanted = {role: percent for role, percent in percents if percent}
    dealt = dict.fromkeys(wanted, 0)
    role_of = {}
    for title in sorted(questions, key=lambda title: (-questions[title], _order(seed, title))):
        role = min(wanted, key=lambda role: (dealt[role] / wanted[role], ROLES.index(role)))
        role_of[title] = role
        dealt[role] += questions[title]
    empty = [role for role, count in dealt.items() if not count]
    if empty:
        raise UserError(
            f"--shares {shares} given for {len(questions)} articles, which "
            f"leaves no {empty[0]}, expected at least as many articles as roles"
        )
    return {
        role: share_beginnings([p for p in paragraphs if role_of[p.title] == role])
        for role in ROLES
    }


def _apart(paragraph: Paragraph) -> list[Paragraph]:
    """The paragraph, or each of the prompts that share its beginning."""
    if paragraph.template:
        return [paragraph]
    return [Paragraph(asked.text, "", (asked,), False) for asked in paragraph.questions]


def _order(seed: int, title: str) -> bytes:
    return hashlib.sha256(f"{seed}/{title}".encode()).digest()
