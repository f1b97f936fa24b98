"""Training articles dealt into demonstrations, comparisons and prompts."""

import pytest

from src.data.pico import generate_articles
from src.data.roles import ROLES, deal
from src.data.squad_splits import share_beginnings
from src.data.squad_types import NO_PLACE, Paragraph, Question
from src.utils.checkpoint_utils import load_checkpoint
from src.utils.errors import UserError
from tests.conftest import call, flags, outcome, refusal


def test_roles_share_no_title_and_have_their_shares():
    paragraphs = generate_articles(0, "train", 200, 2)
    dealt = deal(paragraphs, "30,50,20", seed=3)
    titles = [{p.title for p in dealt[role]} for role in ROLES]
    assert not (titles[0] & titles[1] or titles[0] & titles[2] or titles[1] & titles[2])
    assert sum(map(len, dealt.values())) == len(paragraphs)
    total = sum(len(p.questions) for p in paragraphs)
    counts = [sum(len(p.questions) for p in dealt[role]) for role in ROLES]
    largest = 6 * 8  # questions of an article
    assert all(abs(n - total * s / 100) <= largest
               for n, s in zip(counts, (30, 50, 20), strict=True))
    assert dealt == deal(paragraphs, "30,50,20", seed=3) != deal(paragraphs, "30,50,20", seed=4)


def article(title, questions):
    asked = tuple(Question(f"{title}-{n}", "Who?", ("Ann",), (0,)) for n in range(questions))
    return Paragraph(title, f"Ann wrote {title}.", asked)


def test_unequal_articles_are_dealt_by_questions():
    """One article of 100 questions is a role's whole share; small ones make up the others."""
    dealt = deal([article("large", 100), *(article(str(n), 1) for n in range(100))], "50,50,0", 0)
    counts = {role: sum(len(p.questions) for p in dealt[role]) for role in ROLES}
    assert counts["prompts"] == 0 and sorted(counts.values())[1:] == [100, 100]


def test_prompts_that_share_a_beginning_are_dealt_one_by_one():
    """A hundred prompts under one instruction were one article, too few for three roles."""
    start = "Write the date that follows as the standard has it: year, month, day. " * 4
    prompts = [
        Paragraph(text, "", (Question(text, text, ("x",), (NO_PLACE,)),), False)
        for text in (f"{start}Date {n}:" for n in range(100))
    ]
    dealt = deal(share_beginnings(prompts), "30,40,30", seed=0)
    assert [sum(len(p.questions) for p in dealt[role]) for role in ROLES] == [30, 40, 30]
    found = [paragraph for role in ROLES for paragraph in dealt[role]]
    texts = [question.text for paragraph in found for question in paragraph.questions]
    assert sorted(texts) == sorted(p.title for p in prompts)
    assert all(p.context.startswith(start.rstrip()) for p in found)  # shared again


def test_too_few_articles_are_refused():
    with pytest.raises(UserError, match="30,40,30 given for 2 articles, which leaves no prompts"):
        deal([article("a", 3), article("b", 3)], "30,40,30", 0)


@pytest.mark.parametrize("given", ["30,40", "30,40,20", "a,b,c", "-10,60,50", "50,50,0,0", ""])
def test_shares_that_are_none_are_refused(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    assert "expected three percentages" in refusal("main_squad", [f"--shares={given}"])


def test_later_stages_inherit_the_roles(tmp_path, monkeypatch):
    """Each says its role, and no two read the same contexts."""
    monkeypatch.chdir(tmp_path)
    call("main_squad", [*flags("main_squad", "kgram"), "--shares", "30,40,30"])
    assert load_checkpoint("checkpoints/kgram_main_squad/final.pt").data["shares"] == "30,40,30"
    for stage, role in (("train_dpo", "comparisons"), ("train_reward_model", "comparisons"),
                        ("train_ppo", "prompts")):
        ended = outcome(stage, flags(stage, "kgram"))
        assert ended.code == 0, ended.err
        assert any(f"{stage} trains on {role}" in line for line in ended.err)
        assert load_checkpoint(f"checkpoints/kgram_{stage}/final.pt").data["shares"] == "30,40,30"


def test_a_stage_without_its_role_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call("main_squad", [*flags("main_squad", "kgram"), "--shares", "50,50,0"])
    ended = outcome("train_ppo", [*flags("train_ppo", "kgram"), "--reward", "f1"])
    assert ended.code == 2 and "leaves no prompts for train_ppo" in ended.err[-1]
