"""eval_dpo.py --best_of: one set of samples, every subset of it, and what it refuses."""

import itertools
import json
import math

import pytest
import torch
from conftest import call, outcome, refusal

from src.evaluation import best_of_n as module
from src.evaluation.compare_policies import CommonGround
from src.evaluation.evaluation_set import EvaluationSet
from src.evaluation.squad_metrics import QAExample


class Letters:
    """A tokenizer of which token n is a word."""

    eos_id = 0

    def decode(self, ids):
        return " ".join("abcdefgh"[i] for i in ids)


def comparison_of(monkeypatch, answers, rewards):
    """Two questions on one context and one on another; what is drawn and its rewards are given,
    (3, 4)."""
    asked = [QAExample("c", "q", (gold,)) for gold in ("b c", "d", "e f")]
    held_out = EvaluationSet([([1], [[2], [3]]), ([4], [[5]])], [[]] * 3, asked, list("xyz"),
                             [0, 0, 1], 0.0, 0, max_answer_tokens=5)

    def generate(model, prompts, eos_id, *, num_samples, seed, **options):
        assert options["max_new_tokens"] == 5
        first = seed[1]
        return [row for texts in answers for row in texts[first : first + num_samples]]

    def score(reward, trees, eos_id):
        ids = [a for _, questions in trees for _, texts in questions for a in texts]
        flat = [tuple(row) for texts in answers for row in texts]
        values = [value for row in rewards for value in row]
        return torch.tensor([values[flat.index(tuple(a))] for a in ids])

    monkeypatch.setattr(module, "generate_all", generate)
    monkeypatch.setattr(module, "model_rewards", score)
    nothing = torch.nn.Identity()
    return CommonGround(held_out, None, Letters(), nothing, nothing, None, None, "cpu")


ANSWERS = [
    [[1, 2], [1], [7], [3, 3]],
    [[3], [2], [5], [6]],
    [[4, 5, 6], [5, 5], [2, 2], [4]],
]
REWARDS = [[0.5, 2.0, 1.0, -1.0], [3.0, 1.0, 2.0, 0.0], [1.0, 0.0, 4.0, 2.0]]


def test_every_n_is_the_mean_over_all_subsets_of_one_set_of_samples(monkeypatch):
    """F1 by hand: "b c" of "b c" 1, "b" 2/3; "d" of "d" 1; of "e f": "e f g" 0.8, "f f" 1/2, "e"
    2/3. Samples drawn in parts of two or at once are the same."""
    f1 = [[1, 2 / 3, 0, 0], [1, 0, 0, 0], [0.8, 0.5, 0, 2 / 3]]
    c = comparison_of(monkeypatch, ANSWERS, REWARDS)
    for at_a_time in (2, 8):
        monkeypatch.setattr(module, "AT_A_TIME", at_a_time)
        found = module.sample_and_score(c, c.parent, 4, seed=0)
        assert found[0].tolist() == REWARDS
        torch.testing.assert_close(found[1], torch.tensor(f1).double(), atol=1e-6, rtol=0)
        assert found[2].tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    rows, figures = module.best_of_n_rows(c, c.parent, [1, 2, 3, 4])
    for row in rows:
        n, best = row["n"], {"f1": [], "reward": []}
        for values, rewards in zip(f1, REWARDS, strict=True):
            subsets = list(itertools.combinations(range(4), n))
            chosen = [max(subset, key=rewards.__getitem__) for subset in subsets]
            best["f1"].append(sum(values[i] for i in chosen) / len(subsets))
            best["reward"].append(sum(rewards[i] for i in chosen) / len(subsets))
        assert row["f1"] == pytest.approx(100 * sum(best["f1"]) / 3, abs=1e-4)
        assert row["reward"] == pytest.approx(sum(best["reward"]) / 3, abs=1e-6)
        assert figures[f"f1_of_{n}"]["values"] == pytest.approx(best["f1"], abs=1e-6)
        assert figures[f"f1_of_{n}"]["contexts"] == [0, 0, 1]
        random = 100 * sum(map(sum, f1)) / 12
        assert row["random_f1"] == pytest.approx(random, abs=1e-4)
        assert row["f1_gain"] == pytest.approx(row["f1"] - random, abs=1e-4)
        assert row["kl_bound"] == pytest.approx(math.log(n) - (n - 1) / n)
        assert row["reward_low"] <= row["reward"] <= row["reward_high"]
    assert rows[0]["f1_gain"] == pytest.approx(0, abs=1e-6)


def test_the_report_has_a_list_for_each_policy(kgram, tmp_path):
    argv = ["--model_type", "kgram", "--limit", "9", "--best_of", "1,3"]
    files = ["--output", tmp_path / "out.json", "--per_question", tmp_path / "each.json"]
    table = call("eval_dpo", [*argv, *files])
    stored = json.loads((tmp_path / "out.json").read_text())
    assert stored == table
    each = json.loads((tmp_path / "each.json").read_text())
    names, each = each["context_names"], each["policies"]
    assert each.keys() == table["policies"].keys() and len(each) == 3
    for path, metrics in table["policies"].items():
        rows = metrics["best_of"]
        assert [row["n"] for row in rows] == [1, 3]
        assert rows[0]["kl_bound"] == 0 and rows[1]["reward"] >= rows[0]["reward"]
        for name, interval in metrics.items():
            if name != "best_of":
                one = each[path][name]
                assert len(one["values"]) == len(one["denominators"]) == len(one["contexts"])
                assert {str(context) for context in one["contexts"]} <= names.keys()
                assert len(set(names.values())) == len(names)
                mean = sum(one["values"]) / sum(one["denominators"])
                assert mean == pytest.approx(interval["value"], abs=1e-6)
        for row in rows:
            values = each[path][f"reward_of_{row['n']}"]["values"]
            assert sum(values) / len(values) == pytest.approx(row["reward"], abs=1e-6)
    # Without --best_of there is no list, and the other metrics are the same.
    plain = call("eval_dpo", argv[:4])["policies"]
    for path, metrics in plain.items():
        assert "best_of" not in metrics
        assert metrics == {k: v for k, v in table["policies"][path].items() if k != "best_of"}


def test_gains_are_paired_over_the_sft_model(kgram, tmp_path):
    """Each is the difference of the two values; pairs of the same model would have no width."""
    argv = ["--model_type", "kgram", "--limit", "9", "--checkpoint"]
    sft, dpo = (f"checkpoints/kgram_{stage}/final.pt" for stage in ("main_squad", "train_dpo"))
    ended = outcome("eval_dpo", [*argv, dpo, sft])  # wherever the SFT model stands
    found, gains = ended.result["policies"], ended.result["gains"]
    assert gains["over"] == sft and gains["policies"].keys() == {dpo}
    assert gains["policies"][dpo].keys() == {
        "em", "f1", "answer_loss_nats", "preference_accuracy", "reward"
    }
    for name, gain in gains["policies"][dpo].items():
        difference = found[dpo][name]["value"] - found[sft][name]["value"]
        assert gain["value"] == pytest.approx(difference, abs=1e-6)
    assert any(line.startswith(f"over {sft}, paired") for line in ended.out)
    # Without it, over the first; alone, over none.
    ended = outcome("eval_dpo", [*argv, dpo])
    assert ended.result["gains"] == {"over": dpo, "policies": {}}
    assert not any(line.startswith("over ") for line in ended.out)


@pytest.mark.parametrize("sizes", ["0,1", "2,1", "1,1", "a", "", "1,,2", "1,9999"])
def test_sizes_ascend_from_1(sizes):
    assert "expected ascending whole numbers" in refusal("eval_dpo", ["--best_of", sizes])


def test_best_of_n_needs_a_reward_model_and_one_window(workplace):
    line = refusal("eval_dpo", ["--best_of", "1,2", "--doc_stride", "10"])
    assert "--best_of given with --doc_stride" in line
    workplace("kgram", ["main_squad", "train_dpo"])
    ended = outcome("eval_dpo", ["--model_type", "kgram", "--limit", "9", "--best_of", "1,2"])
    assert ended.code == 2 and "--best_of given without a reward model" in ended.err[-1]
