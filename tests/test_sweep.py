"""sweep.py: the grid that a file describes, runs killed and resumed, intervals, the page."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import outcome, refusal
from test_report import Strict

from src.preference.loss_table import PREFERENCE_LOSSES
from src.rl.algorithm_table import ROWS
from src.sweep import crossed, runner
from src.sweep.curves import line_of
from src.sweep.experiment import Cell, Experiment, read_experiment
from src.sweep.page import matrix_table, results_table
from src.sweep.page import page as page_of
from src.sweep.results import CellResult, Point, label_of, read_measured, rows_of
from src.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent

FILE = """
seeds = [0, 1]
flags = { model_type = "kgram", eval_limit = 6, batch_size = 2, max_steps = 2 }
baseline = { stage = "sft" }
compare = ["f1", "answer_loss_nats"]

[stages.sft]
script = "main_squad.py"
flags = { dataset = "pico", num_examples = 60, n_embd = 16, n_layer = 1, kgram_k = 12, \
save_every = 1 }

[stages.reward]
script = "train_reward_model.py"
parents = { checkpoint = "sft" }
variants = { few = { max_pairs = 10 }, noisy = { max_pairs = 20, label_noise = 0.25 } }

[stages.rl]
script = "train_ppo.py"
parents = { checkpoint = "sft", reward_checkpoint = "reward" }
flags = { max_new_tokens = 6, minibatches = 1, eval_every = 1 }
grid = { algorithm = ["rloo", "grpo", "raft"], num_samples = [2, 3] }

[stages.dpo]
script = "train_dpo.py"
parents = { checkpoint = "sft", reward_checkpoint = "reward" }
copy = { reward_checkpoint = ["max_pairs", "label_noise"] }

[stages.measured]
script = "eval_dpo.py"
parents = { checkpoint = ["sft", "rl", "dpo"], reward_checkpoint = "reward" }
flags = { limit = 6, best_of = "1,2" }
"""
# The same in small: one of each, of one seed.
SMALL = re.sub(
    "grid = .*", "", FILE.replace("[0, 1]", "[3]").replace('"sft", "rl", "dpo"', '"sft", "rl"')
).replace(", noisy = { max_pairs = 20, label_noise = 0.25 }", "").replace(
    '[stages.dpo]\nscript = "train_dpo.py"\n'
    'parents = { checkpoint = "sft", reward_checkpoint = "reward" }\n'
    'copy = { reward_checkpoint = ["max_pairs", "label_noise"] }\n', "",
) + """
[curves]
stages = ["rl"]
panel = "reward"

[[matrices]]
metric = "f1"
rows = "measured.checkpoint"
columns = "reward.variant"
"""


def read(tmp_path, text):
    path = tmp_path / "tiny.toml"
    path.write_text(text)
    return read_experiment(str(path), str(tmp_path / "out"), 1)


# --- the grid ---


def test_a_file_is_a_grid_in_which_ancestors_are_shared(tmp_path):
    cells = read(tmp_path, FILE).cells
    count = {s: sum(cell.stage == s for cell in cells) for s in ("sft", "reward", "rl", "dpo")}
    assert count == {"sft": 2, "reward": 4, "rl": 2 * 2 * 3 * 2, "dpo": 4}
    # 2 seeds, 2 reward models; SFT, 6 kinds of RL, DPO.
    assert sum(cell.stage == "measured" for cell in cells) == 2 * 2 * (1 + 6 + 1)
    assert len({cell.folder for cell in cells}) == len(cells) == len({c.key for c in cells})
    for number, cell in enumerate(cells):
        for flag, parent in cell.parents.items():
            assert cells.index(parent) < number and parent.seed == cell.seed
            at = cell.argv.index(f"--{flag}")
            assert cell.argv[at + 1] == str(parent.folder / "final.pt")
            # All that a cell descends from was made with one and the same choice.
            assert parent.choices.items() <= cell.choices.items()
        assert cell.argv[-2:] == ["--threads", "1"]
        assert ("--seed" in cell.argv) == (cell.script != "eval_dpo.py")


def test_flags_are_shared_by_those_that_have_them_and_copied_from_parents(tmp_path):
    cells = read(tmp_path, FILE).cells
    words = {cell.name: " ".join(cell.argv) for cell in cells}
    noisy = words["dpo reward.variant=noisy, seed 1"]
    assert "--max_pairs 20" in noisy and "--label_noise 0.25" in noisy
    assert "--label_noise" not in words["dpo reward.variant=few, seed 1"]
    found = words["rl reward.variant=few algorithm=raft num_samples=3, seed 0"]
    assert "--algorithm raft" in found and "--max_steps 2" in found
    assert "--max_steps" not in words["measured checkpoint=sft reward.variant=few, seed 0"]
    labels = {label_of(cell) for cell in cells if cell.stage == "measured"}
    assert "sft reward.variant=few" in labels and "dpo reward.variant=noisy" in labels


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = [0, 1]", "seeds = [0, 1", "expected TOML"),
        ("seeds = [0, 1]", "", "no seeds"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "different whole numbers"),
        ("seeds = [0, 1]", "seeds = [-1]", "different whole numbers"),
        ("seeds = [0, 1]", "seeds = 3", "expected a list"),
        ("seeds = [0, 1]", "seeds = [1]\ncolour = 1", "has colour"),
        ('"train_ppo.py"', '"train_pp.py"', "expected one of main_squad.py"),
        ('checkpoint = "sft", r', 'checkpoint = "stf", r', "stands before it (sft, reward)"),
        ("minibatches = 1", "minibatch = 1", "--minibatch 1"),
        ("minibatches = 1", "minibatches = 0", "argument --minibatches: '0' given"),
        ("minibatches = 1", "seed = 1", "the sweep sets it"),
        ("eval_limit = 6", "eval_limits = 6", "flag of no stage's script"),
        ("num_samples = [2, 3]", "num_samples = 2", "expected a list of values"),
        ("num_samples = [2, 3]", "num_samples = [2, 2]", "two cells have the folder"),
        ("num_samples = [2, 3]", "num_samples = [[2]]", "several: in grid"),
        ('{ stage = "sft" }', '{ stage = "start" }', "expected stage = one of"),
        ('parents = { checkpoint = ["sft", "rl", "dpo"]', "parents = { other = 'sft'",
         "expected the stages to evaluate"),
        ("copy = { reward_checkpoint", "copy = { reward", "flags of one of its parents"),
        ("[stages.measured]", "[curves]\nstages = ['x']\n[stages.measured]", "curves: 'x' given"),
        ("[stages.measured]", "[curves]\nstages = [['x']]\n[stages.measured]", "['x'] given"),
        ('{ stage = "sft" }', '{ stage = ["sft"] }', "expected stage = one of"),
        ('checkpoint = "sft", r', 'checkpoint = [["sft"]], r', "stands before it (sft, reward)"),
        ('["max_pairs", "label_noise"]', '[["max_pairs"]]', "flags of one of its parents"),
        ('["f1", "answer_loss_nats"]', '["f1", ["f1"]]', "expected a list of metrics' names"),
        ("save_every = 1", "save_every = 1, pointer = false", "no_pointer = true"),
        ('algorithm = ["rloo", "grpo", "raft"]', "lr = [1, 1.0]", "two cells are equal to rl"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_and_nothing_runs(tmp_path, old, new, said):
    path = tmp_path / "tiny.toml"
    path.write_text(FILE.replace(old, new, 1))
    assert FILE.count(old)
    line = refusal("sweep", [str(path), "--output_dir", str(tmp_path / "out")])
    assert said in line and str(path) in line
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "expected a TOML file" in refusal("sweep", [str(tmp_path / "no.toml")])
    assert "no experiment given" in refusal("sweep", [])


# --- runs ---

STAND_IN = """
import os, sys, time
folder = sys.argv[sys.argv.index("--output_dir") + 1]
seed = sys.argv[sys.argv.index("--seed") + 1]
open(folder + "/starts", "a").write("x")
time.sleep(0.2)
print("working", flush=True)
if seed == "1":
    sys.exit("no luck\\rwith seed 1")
open(folder + "/final.pt", "w").close()
"""


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Scripts that write final.pt, but fail for seed 1; the cells of sft and reward."""
    for name in ("main_squad.py", "train_reward_model.py"):
        (tmp_path / name).write_text(STAND_IN)
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    return [c for c in read(tmp_path, FILE).cells if c.stage in ("sft", "reward")]


def starts(cells):
    return [len((c.folder / "starts").read_text()) if (c.folder / "starts").exists() else 0
            for c in cells]


def test_a_failure_is_named_and_the_rest_goes_on(stand_ins, tmp_path, capsys):
    failed = runner.run_cells(stand_ins, 2, 1, tmp_path / "out")
    of_seed = {seed: [c for c in stand_ins if c.seed == seed] for seed in (0, 1)}
    assert all(cell.result.exists() for cell in of_seed[0])
    assert failed[of_seed[1][0].key] == "exit code 1: with seed 1"
    for cell in of_seed[1][1:]:
        assert failed[cell.key] == "not run: sft, seed 1 failed"
    assert starts(stand_ins) == [1, 1, 1, 1, 0, 0]
    # Again: what is finished is skipped, what failed is tried again.
    assert runner.run_cells(stand_ins, 1, 1, tmp_path / "out").keys() == failed.keys()
    assert starts(stand_ins) == [1, 1, 1, 2, 0, 0]
    assert "3 finished before, 3 to run, 1 at once" in capsys.readouterr().out


EVALUATE = """
import sys
path = sys.argv[sys.argv.index("--per_question") + 1]
open(path + ".starts", "a").write("x")
open(path, "w").close()
"""


def test_what_was_measured_of_a_removed_cell_is_measured_again(stand_ins, tmp_path):
    """To change the flags of sft one has to remove its folder; its evaluations were finished."""
    (tmp_path / "eval_dpo.py").write_text(EVALUATE)
    cells = [c for c in read(tmp_path, FILE).cells
             if c.seed == 0 and c.policy().stage in ("sft", "reward")]
    evaluations = [c for c in cells if c.stage == "measured"]
    assert len(evaluations) == 2
    assert runner.run_cells(cells, 2, 1, tmp_path / "out") == {}
    assert runner.run_cells(cells, 2, 1, tmp_path / "out") == {}
    assert {(c.folder / "questions.json.starts").read_text() for c in evaluations} == {"x"}
    shutil.rmtree(next(c.folder for c in cells if c.stage == "sft"))
    assert read_measured(cells) == []  # as --report_only finds them
    assert runner.run_cells(cells, 2, 1, tmp_path / "out") == {}
    assert {(c.folder / "questions.json.starts").read_text() for c in evaluations} == {"xx"}


def test_cells_of_another_file_are_not_taken_for_these(stand_ins, tmp_path):
    runner.run_cells(stand_ins[:1], 1, 1, tmp_path / "out")
    other = read(tmp_path, FILE.replace("n_embd = 16", "n_embd = 8")).cells
    with pytest.raises(UserError, match="was started with other flags"):
        runner.run_cells(other[:1], 1, 1, tmp_path / "out")


def sweep(tmp_path, name):
    (tmp_path / "small.toml").write_text(SMALL)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "sweep.py"), "small.toml", "--output_dir", name, "--jobs", "2"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )


def test_a_sweep_that_is_killed_and_resumed_gives_the_same_table(tmp_path):
    whole = sweep(tmp_path, "whole")
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    for seconds in (2.0, 8.0):
        killed = sweep(tmp_path, "killed")
        time.sleep(seconds)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        killed.stderr.close()
    again = sweep(tmp_path, "killed")
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    tables = [(tmp_path / n / "table.csv").read_text() for n in ("whole", "killed")]
    assert tables[0] == tables[1].replace("killed", "whole")
    lines = tables[0].splitlines()
    sources = [line.split(",")[0] for line in lines[1:]]
    # Evaluations of three stages, two policies, two points of best of n each.
    assert sources.count("policy") == 2 and sources.count("best of n") == 4
    assert sources.count("training") == 3 * 3 and "seconds" not in lines[0]

    text = (tmp_path / "whole/index.html").read_text()
    page = Strict(text)
    assert all(url.startswith(("#", "data:")) for url in page.urls)
    said = " ".join(page.text)
    assert "5 of 5 cells finished; seeds: 1." in said and "One seed" in said
    assert "2 were looked at" in said and "97.50% (Bonferroni)" in said
    assert "True F1, reward.variant=few" in said and page.tags.count("img") == 2
    path = next((tmp_path / "whole/measured").glob("*/*/questions.json"))
    assert set(json.loads(path.read_text())) == {"policies", "context_names"}


def test_report_only_of_a_sweep_that_has_not_run_is_an_empty_page(tmp_path, monkeypatch):
    (tmp_path / "small.toml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    ended = outcome("sweep", ["small.toml", "--output_dir", "none", "--report_only"])
    assert ended.code == 0 and sorted(os.listdir("none")) == ["index.html", "table.csv"]
    assert "Nothing here yet." in Path("none/index.html").read_text()


def test_a_report_of_cells_that_ran_with_other_flags_is_refused(tmp_path):
    """But for the number of threads, which changes no figure."""
    path, out = tmp_path / "small.toml", str(tmp_path / "out")
    path.write_text(SMALL)
    cell = read_experiment(str(path), out, 1).cells[0]
    cell.folder.mkdir(parents=True)
    argv = [str(path), "--output_dir", out, "--report_only"]
    (cell.folder / "cell.json").write_text(json.dumps([cell.script, *cell.argv[:-1], "2"]))
    assert outcome("sweep", argv).code == 0
    (cell.folder / "cell.json").write_text(json.dumps([cell.script, "--max_steps", "9"]))
    assert "was started with other flags" in refusal("sweep", argv)


def test_an_output_folder_that_is_a_file_is_refused(tmp_path):
    path, file = tmp_path / "small.toml", tmp_path / "file"
    path.write_text(SMALL)
    file.write_text("")
    for place in (file, file / "below"):
        line = refusal("sweep", [str(path), "--output_dir", str(place), "--report_only"])
        assert f"{file} is a file, expected a folder" in line


# --- the table and the page ---


def evaluated(seed, algorithm, **metrics):
    """A finished evaluation: metric -> its value in this seed's one context."""
    policy = Cell("rl", "train_ppo.py", seed, {"rl.algorithm": algorithm}, {}, Path("."), {}, [])
    cell = policy._replace(stage="measured", script="eval_dpo.py", parents={"checkpoint": policy})
    by_context = {name: {f"context {seed}": value} for name, value in metrics.items()}
    return CellResult(cell, metrics, by_context, [], 0.0)


def test_a_matrix_is_of_its_metric_where_it_was_measured():
    """Of one that is no column of the table; and not measured of raft."""
    matrix = {"metric": "win_rate", "rows": "rl.algorithm", "columns": "rl.algorithm"}
    options = {"metrics": ["f1"], "matrices": [matrix]}
    experiment = Experiment(Path("x.toml"), "", "x", [0], [], options)
    measured = [evaluated(0, "ppo", f1=1.0, win_rate=50.0), evaluated(0, "raft", f1=2.0)]
    rows, looks = rows_of(experiment, measured)
    text = matrix_table(matrix, rows)
    assert "50.0" in text and "ppo" in text and "raft" not in text
    assert "wins" not in results_table(experiment, rows, looks)


def test_a_row_of_fewer_seeds_says_so():
    """A seed that failed, or has not run yet."""
    experiment = Experiment(Path("x.toml"), "", "x", [0, 1], [], {"metrics": ["f1"]})
    measured = [evaluated(0, "ppo", f1=1.0), evaluated(1, "ppo", f1=2.0)]
    rows, looks = rows_of(experiment, [*measured, evaluated(0, "raft", f1=2.0)])
    text = results_table(experiment, rows, looks)
    assert "algorithm=raft (1 of 2 seeds)" in text and "algorithm=ppo<" in text


def test_the_page_shows_the_file_that_was_read(tmp_path):
    """A sweep takes hours, in which the file may be edited or removed."""
    experiment = read(tmp_path, SMALL)
    experiment.path.unlink()
    assert "seeds = [3]" in page_of(experiment, [], {}, {}, [])


# --- intervals ---


def test_t_quantiles_are_those_of_the_tables():
    """Two-sided 95% and 99.9%, from any statistics book."""
    for degrees, usual, strict in (
        (1, 12.7062, 636.619), (2, 4.30265, 31.5991), (4, 2.77645, 8.61030),
        (10, 2.22814, 4.58689), (120, 1.97993, 3.37345),
    ):
        assert crossed.t_quantile(degrees) == pytest.approx(usual, rel=1e-5)
        assert crossed.t_quantile(degrees, 0.999) == pytest.approx(strict, rel=1e-5)
    assert crossed.bonferroni(10) == pytest.approx(0.995) and crossed.bonferroni(0) == 0.95


def simulated(rng, seeds, contexts, of_seed, of_context, own_contexts=False):
    """Null differences: effects of seeds, of contexts and of single entries (deviation 1)."""
    of_contexts = of_context * rng.normal(size=(seeds if own_contexts else 1, contexts))
    y = of_seed * rng.normal(size=(seeds, 1)) + of_contexts + rng.normal(size=(seeds, contexts))
    names = [[f"{s if own_contexts else 0}/{c}" for c in range(contexts)] for s in range(seeds)]
    return [dict(zip(n, row, strict=True)) for n, row in zip(names, y.tolist(), strict=True)]


RUNS = 1500


@pytest.mark.parametrize("own_contexts", [False, True])
@pytest.mark.parametrize("seeds", [3, 5])
def test_null_differences_are_called_real_in_five_percent_at_most(seeds, own_contexts):
    """Whatever varies more, seeds or contexts, and whether seeds share their contexts."""
    rng, most = np.random.default_rng(seeds), 0.05 + 3 * (0.05 * 0.95 / RUNS) ** 0.5
    for of_seed, of_context in ((0, 0), (0, 2), (0.2, 1), (0.5, 0.5), (1, 2), (2, 0)):
        data = [simulated(rng, seeds, 20, of_seed, of_context, own_contexts) for _ in range(RUNS)]
        called = np.mean([crossed.crossed_interval(each).verdict() != 0 for each in data])
        print(f"{seeds} seeds, deviations {of_seed} and {of_context}: {called:.3f}")
        assert called <= most
        if own_contexts or of_seed == 2:  # one variance matters: the level is exact
            assert called >= 0.05 - (most - 0.05) or of_context == 0 == of_seed
    # The test can fail: with t's quantile of many seeds, differences between few are called real.
    data = [simulated(rng, seeds, 20, 2, 0) for _ in range(RUNS)]
    means = np.array([[np.mean(list(v.values())) for v in each] for each in data])
    errors = means.std(1, ddof=1) / seeds**0.5
    assert np.mean(np.abs(means.mean(1)) > 1.96 * errors) > most


def test_an_interval_by_hand():
    """Standard errors times Student's t of one and two degrees of freedom, from any book."""
    own, same = [{"a": 1.0, "b": 3.0}, {"c": 4.0}], [{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 2.0}]
    one = [{"a": 1.0, "b": 1.1, "c": 1.2}]
    for level, t1, t2 in ((0.95, 12.7062, 4.30265), (0.999, 636.619, 31.5991)):
        # Two seeds with contexts of their own: the seeds' means, 2 and 4.
        found = crossed.crossed_interval(own, level)
        assert found.value == 3 and found.high - 3 == pytest.approx(t1 * 1.0, rel=1e-5)
        assert found.verdict() == 0 and found.seeds == 2
        # The same two contexts: their variance counts beside the seeds', which is 0 here.
        found = crossed.crossed_interval(same, level)
        assert found.high - found.value == pytest.approx(t1 * (0.5 / 2) ** 0.5, rel=1e-5)
        # One seed: its three contexts, of deviation 0.1.
        found = crossed.crossed_interval(one, level)
        assert found.high - found.value == pytest.approx(t2 * 0.1 / 3**0.5, rel=1e-5)
    found = crossed.crossed_interval(one)
    assert found.low > 0 and found.verdict() == 0, "one seed gives no verdict"
    for sign in (1, -1):
        assert crossed.crossed_interval([{"a": sign * 1.0}, {"b": sign * 1.1}]).verdict() == sign
    assert crossed.crossed_interval([]).seeds == 0


def test_a_ratio_is_the_mean_of_its_contributions():
    figure = {"values": [1.0, 2.0, 6.0], "denominators": [1, 1, 4], "contexts": [0, 0, 7]}
    found = crossed.contributions(figure, {"0": "a", "7": "b"})
    assert list(found) == ["a", "b"] and sum(found.values()) / 2 == pytest.approx(9 / 6)
    # Contexts of equal weight: the contribution is the context's own ratio.
    figure["denominators"] = [1.5, 1.5, 3]
    found = crossed.contributions(figure, {"0": "a", "7": "b"})
    assert found == pytest.approx({"a": 1.0, "b": 2.0})
    figure["denominators"] = [0, 0, 0]
    assert crossed.contributions(figure, {"0": "a", "7": "b"}) == {}
    assert crossed.paired({"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 2.0}) == {"a": 2.0, "b": -1.0}
    assert crossed.paired({"a": 3.0}, {"b": 1.0}) == {}


# --- curves ---


def test_a_curve_is_fitted_and_its_peak_is_found():
    """F1 that follows d (a - b d) exactly, around which two seeds vary."""
    distance = np.linspace(0, 3, 13)
    curves = [
        [Point(n, d * d, d + shift * (n > 0), 50 + d * (8 - 3 * d) + shift * (n > 0))
         for n, d in enumerate(distance)]
        for shift in (-1, 1)
    ]
    line = line_of("x", curves)
    best, rl = line.fits
    assert best == pytest.approx((8, 3, 1)) and rl.r2 < 1
    assert line.distance[line.peak] == pytest.approx(1.25)  # the nearest point to 8 / 6
    assert line.reward[line.peak].value == pytest.approx(1.25)
    assert line.f1[0].value == line.f1[0].high == 0
    assert line_of("x", [curves[0], curves[1][:1]]) is None


@pytest.mark.parametrize("name", ["algorithms", "overoptimisation"])
def test_the_experiments_here_can_be_read(name):
    cells = read_experiment(str(ROOT / f"experiments/{name}.toml"), None, 1).cells
    chosen = {value for cell in cells for value in cell.choices.values()}
    wanted = {*ROWS, *PREFERENCE_LOSSES} if name == "algorithms" else {"ppo", "rloo", "grpo"}
    assert wanted <= chosen
