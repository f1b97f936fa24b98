"""The example task, and the two pages that follow from it: data, rewards, a small chain."""

import json
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from conftest import SHAPES, SMALL, outcome

from examples import dates
from src.data.squad_loader import load_squad
from src.evaluation.squad_metrics import exact_match
from src.utils.checkpoint_utils import load_checkpoint


def test_dates_are_right_different_and_of_every_kind():
    """Read back by Python's own calendar; the seed decides all."""
    found = dates.rows(3000, 0)
    assert found == dates.rows(3000, 0) != dates.rows(3000, 1)
    assert len({row["completion"] for row in found}) == len({r["prompt"] for r in found}) == 3000
    kinds = Counter()
    for row in found:
        day = date.fromisoformat(row["completion"])
        text = row["prompt"].removeprefix("Date: ").removesuffix("\nISO:")
        assert str(day.year) in text and str(day.day) in text
        named = day.strftime("%B")[:3] in text
        assert named or text == f"{day.day}.{day.month}.{day.year}"
        kinds["the" in text.split(), "," in text, named, "." in text] += 1
    assert len(kinds) == 5 and min(kinds.values()) > 300
    assert dates.written(11, 1, 1900, dates.random.Random(9)).startswith("the 11th of")


def test_the_rewards_by_hand():
    assert dates.parts_right("1804-06-03", ("1804-05-03",), "", "") == {
        "reward": pytest.approx(2 / 3), "year": 1.0, "month": 0.0, "day": 1.0
    }
    assert dates.parts_right("", ("1804-05-03",), "", "")["reward"] == 0
    assert dates.valid("1804-02-29", (), "", "") == 0.0 and dates.valid("1-1-1", (), "", "") == 0.0
    assert exact_match("1804-05-03", ("1804-05-03",)) == 1.0


@pytest.mark.parametrize("argv", [["--count", "0"], ["--count", "120451"], ["--seed", "x"]])
def test_what_cannot_be_written_leaves_the_file_as_it_was(argv, tmp_path, capsys):
    kept = tmp_path / "dates.jsonl"
    kept.write_text("kept")
    for file in (kept, tmp_path / "no folder" / "dates.jsonl"):
        with pytest.raises(SystemExit) as ended:
            dates.main([str(file), *(argv if file == kept else [])])
        assert ended.value.code == 2 and kept.read_text() == "kept"
        assert "Traceback" not in capsys.readouterr().err


def test_no_held_out_date_is_trained_on(tmp_path):
    dates.main([str(tmp_path / "dates.jsonl"), "--count", "500"])
    data = load_squad(str(tmp_path / "dates.jsonl"))
    train, held_out = (
        {q.answers[0] for p in part for q in p.questions} for part in (data.train, data.validation)
    )
    assert len(train) == 450 and len(held_out) == 50 and not train & held_out


def test_the_page_can_be_followed_by_every_architecture(model_type, tmp_path, monkeypatch):
    """The commands of docs/your_own_task.md, in small."""
    monkeypatch.chdir(tmp_path)
    dates.main(["dates.jsonl", "--count", "120"])
    kind = ["--model_type", model_type]
    for script, more in (
        ("main_squad", ["--dataset", "dates.jsonl", "--shares", "40,30,30", "--metric",
                        "examples.dates:valid", *SHAPES[model_type]]),
        ("train_dpo", []),
        ("train_reward_model", []),
        ("train_ppo", ["--reward", "model=1,examples.dates:parts_right=0.5", "--max_new_tokens",
                       "8", "--minibatches", "2"]),
    ):
        ended = outcome(script, [*kind, *SMALL, *more])
        assert ended.code == 0, ended.err
        assert script == "train_reward_model" or "metric" in ended.result
    folder = Path(f"checkpoints/{model_type}_train_ppo")
    names = {name for line in (folder / "metrics.jsonl").read_text().splitlines()
             for name in json.loads(line)}
    assert {"reward_model_mean", "reward_parts_right_mean", "reward_parts_right_year_mean"} <= names
    assert load_checkpoint(folder / "final.pt").data["metric"] == "examples.dates:valid"
