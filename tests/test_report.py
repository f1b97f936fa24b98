"""report.html: self-contained, foreign text escaped; of complete, broken and several pipelines."""

import math
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, call, flags, outcome, refusal

from src.evaluation.evaluation_set import EvaluationSet, PolicyResult
from src.evaluation.intervals import Interval
from src.evaluation.squad_metrics import QAExample, f1_score
from src.report.answers import answers_table, few_answers, marked_words
from src.report.curves import CURVES, by_step, draw_curve
from src.report.drawing import LIGHT, Plot, png
from src.report.html import VOID, tag
from src.report.measure import KindScores, Measured
from src.report.page import plot_grid
from src.report.pipelines import Pipeline, Series, Stage, find_pipelines, group_pipelines, read_log
from src.report.sentences import stage_sentences
from src.report.summary_plots import (
    hacking_plot,
    hacking_track,
    mean_of,
    mean_track,
    quality_plot,
    reward_plot,
)
from src.utils.checkpoint_utils import Checkpoint
from src.utils.constants import STAGES

SECTIONS = ["quality", "hacking", "rewards", *STAGES, "metrics", "answers", "run"]
# Elements that hold words only, and elements that are more than words (HTML's content models).
WORDS_ONLY = {"p", "small", "strong", "span", "mark", "label", "summary", "option", "a", "h1", "h2"}
MORE = {"p", "div", "ul", "li", "table", "details", "figure", "section", "nav", "h1", "h2", "h3"}


class Strict(HTMLParser):
    """Every tag closed in its order, every attribute and id once, no block within a line's element;
    what it saw, for the tests."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.tags, self.urls, self.text, self.raw = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, name, attributes):
        names = [key for key, _ in attributes]
        assert len(set(names)) == len(names), (name, names)
        assert name not in MORE or not WORDS_ONLY & set(self.open), (name, self.open)
        self.tags.append(name)
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.urls += [values[k] for k in ("href", "src", "srcset", "action") if k in values]
        assert not any(key.startswith("on") for key in names)
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open and self.open.pop() == name, f"</{name}> closes nothing"

    def handle_data(self, data):
        place = self.open[-1] if self.open else ""
        (self.raw if place in ("script", "style") else self.text).append(data)


def read(path):
    """A report, parsed, once it is known to fetch nothing."""
    page = Strict(Path(path).read_text(encoding="utf-8"))
    for url in page.urls:
        assert url.startswith(("#", "data:image/png;base64,")) or url == "data:,", url[:80]
    for code in page.raw:
        assert "url(" not in code and "@import" not in code and "//" not in code.replace("// ", "")
    assert page.tags.count("html") == page.tags.count("script") == page.tags.count("title") == 1
    return page


def report(*argv, folder="report"):
    ended = outcome("report", ["--limit", "9", "--output_dir", folder, *argv])
    assert ended.code == 0, ended.err
    return ended, read(Path(folder) / "report.html")


def test_the_parser_of_these_tests_is_strict():
    for text in ("<p>", "</p>", "<p><b></p></b>", '<a id="x"></a><b id="x"></b>',
                 '<a href="x" href="y"></a>', '<a onclick="x"></a>',
                 "<small><details></details></small>"):
        with pytest.raises(AssertionError):
            Strict(text)


def test_a_pipeline_in_one_page(workplace):
    workplace("kgram")
    ended, page = report()
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    text = "".join(page.text)
    for words in ("base (before SFT)", "SFT", "DPO", "PPO", "rule: first of type", "--kl_coef 0.05",
                  "sha256", "torch 2.", "Tokenizer: ", '"dataset": "pico"', "9 held-out questions",
                  "than the untrained model", "The reward model puts "):
        assert words in text, words
    assert "Missing or not as expected" not in text and "Nothing to show" not in text
    # Three questions, then sentences, then plots, then tables.
    places = [text.index(words) for words in (
        "3 of 9 held-out questions, those where the answers differ most",
        "What each stage changed", "How good are the answers?",
        "9 held-out questions, greedy answers", "Sort by",
    )]
    assert places == sorted(places) and page.tags.index("details") < page.tags.index("picture")
    # A row a question, and every plot in the page, light and dark, is on the disk too.
    rows = [i for i, name in enumerate(page.tags) if name == "details"]
    assert len(rows) == 3 + 9 + 1
    plots = ended.result["plots"]
    assert len(plots) == len(set(plots)) == page.tags.count("picture") == 19
    for path in plots:
        assert Path(path).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_figures_are_those_of_eval_dpo(workplace):
    """The same questions, so the same numbers as the table that eval_dpo.py prints."""
    workplace("kgram")
    _, page = report()
    table = call("eval_dpo", ["--model_type", "kgram", "--limit", "9"])["policies"]
    text = "".join(page.text)
    for row in table.values():
        for name in ("answer_loss_nats", "preference_accuracy", "reward", "kl_nats"):
            value, n = row[name], 1 if name == "preference_accuracy" else 2
            cell = f"{value['value']:.{n}f} [{value['low']:.{n}f}, {value['high']:.{n}f}]"
            assert cell in text, name


def test_missing_stages_are_named_and_the_rest_is_shown(workplace):
    folder = workplace("kgram", ["main_squad", "train_dpo"])
    (folder / "checkpoints/kgram_train_dpo/final.pt").unlink()
    ended, page = report()
    text = "".join(page.text)
    assert "train_dpo: checkpoints/kgram_train_dpo is not finished, only its log is shown" in text
    assert "train_reward_model: no run of it was found" in text and text.count("Nothing to show")
    assert "SFT answers" in text and "DPO answers" not in text
    assert any("train_ppo: no run of it was found" in line for line in ended.err)
    names = {Path(path).stem for path in ended.result["plots"]}
    assert {"main_squad_loss", "train_dpo_loss", "quality_em"} <= names
    assert not any("ppo" in name or "kinds" in name for name in names)


def test_logs_alone_make_a_page(workplace):
    folder = workplace("kgram", ["main_squad"])
    (folder / "checkpoints/kgram_main_squad/final.pt").unlink()
    _, page = report()
    assert "no finished policy" in "".join(page.text)


def test_a_stage_from_elsewhere_is_found_by_its_lineage(workplace):
    folder = workplace("kgram")
    shutil.move(folder / "checkpoints/kgram_train_ppo", folder / "loose")
    (pipeline,) = find_pipelines(["loose"])
    assert list(pipeline.stages) == ["main_squad", "train_reward_model", "train_ppo"]
    assert pipeline.notes == ["train_dpo: no run of it was found"]
    # Without the SFT model there is nothing to measure a distance from.
    shutil.move(folder / "checkpoints/kgram_main_squad", folder / "away")
    _, page = report("--checkpoints", "loose")
    assert "no KL and wins against it" in "".join(page.text)
    assert "KL from start" not in "".join(page.text)
    shutil.move(folder / "away", folder / "checkpoints/kgram_main_squad")
    # Another SFT model at that place is not what it came from.
    shutil.rmtree(folder / "checkpoints/kgram_main_squad")
    shutil.copytree(folder / "checkpoints/kgram_train_dpo", folder / "checkpoints/kgram_main_squad")
    (pipeline,) = find_pipelines(["checkpoints"])
    assert "train_dpo" in pipeline.stages and any("is a second" in note for note in pipeline.notes)


def test_no_distance_from_an_sft_model_that_no_stage_started_from(workplace):
    """SFT was trained anew, the later stages were not."""
    workplace("kgram")
    anew = [*flags("main_squad", "kgram"), "--lr", "0.01", "--overwrite"]
    assert outcome("main_squad", anew).code == 0
    _, page = report()
    text = "".join(page.text)
    assert "did not start from checkpoints/kgram_main_squad as it is now" in text
    assert "9 held-out questions, greedy answers" in text and "no KL and wins against it" in text
    assert "KL from start" not in text and "wins against start" not in text


def test_what_came_from_a_continued_sft_model_started_from_it(workplace):
    """Its lineage names two SFT models, of which one is there."""
    workplace("kgram", ["main_squad"])
    again = "continued/kgram_main_squad"
    argv = ["--model_type", "kgram", *SMALL, "--output_dir", again]
    argv += ["--checkpoint", "checkpoints/kgram_main_squad/final.pt"]
    ended = outcome("main_squad", argv)
    assert ended.code == 0, ended.err
    argv = [*flags("train_dpo", "kgram"), "--output_dir", "continued/kgram_train_dpo"]
    ended = outcome("train_dpo", [*argv, "--checkpoint", f"{again}/final.pt"])
    assert ended.code == 0, ended.err
    for folder in ("continued", "continued/kgram_train_dpo"):
        (pipeline,) = find_pipelines([folder])
        assert not any("did not start from" in note for note in pipeline.notes)
        assert "main_squad" in pipeline.stages


def test_seeds_whose_runs_differ_by_a_few_steps_are_one_series():
    """Articles are dealt by the seed, so --epochs 2 are 822 steps of one seed and 816 of another.
    """

    def pipeline(folder, seed, steps):
        flags = {"seed": seed, "epochs": 2.0, "max_steps": steps, "eval_every": steps // 4}
        at = (0, steps // 4, steps)
        evaluations = [{"step": step, "f1": 10.0 * n + seed} for n, step in enumerate(at)]
        stage = Stage(Path(folder, "main_squad"), None, [], evaluations, flags, {})
        return Pipeline(Path(folder), "kgram", {"main_squad": stage}, [])

    (series,) = group_pipelines([pipeline("a", 0, 822), pipeline("b", 1, 816)])
    assert series.label == "kgram, 2 seeds"
    logs = [p.stages["main_squad"].evaluations for p in series.pipelines]
    steps, values = by_step(logs, "f1")
    assert steps.tolist() == [0, 205, 822]
    np.testing.assert_array_equal(values, [[0, 10, 20], [1, 11, 21]])
    assert len(group_pipelines([pipeline("a", 0, 822), pipeline("b", 1, 700)])) == 2


def test_two_seeds_are_one_series_and_two_models_two(workplace):
    workplace("kgram")
    shutil.copytree("checkpoints", "again")
    (series,) = group_pipelines(find_pipelines(["checkpoints", "again", "./again"]))
    assert series.label == "kgram, 2 runs" and len(series.pipelines) == 2
    for pipeline in series.pipelines[1:]:
        pipeline.stages["main_squad"].flags["seed"] = 1
    (series,) = group_pipelines(series.pipelines)
    assert series.label == "kgram, 2 seeds"
    series.pipelines[1].stages.pop("train_ppo")  # not there yet
    assert len(group_pipelines(series.pipelines)) == 1
    series.pipelines[1].stages["train_dpo"].flags["beta"] = 7.0
    labels = [series.label for series in group_pipelines(series.pipelines)]
    assert labels == ["kgram (checkpoints)", "kgram (again)"]
    workplace("lstm")
    models = group_pipelines(find_pipelines(["checkpoints"]))
    assert [s.label for s in models] == ["lstm", "kgram"]
    _, page = report("--checkpoints", "checkpoints", "again")
    text = "".join(page.text)
    assert "RLHF run: lstm, kgram, 2 runs" in text
    assert "band from the least to the most" in text
    # The very same checkpoint answers once.
    assert "kgram checkpoints SFT" in text and "kgram again SFT" not in text


def test_runs_with_the_same_seeds_are_not_called_seeds():
    """Both of seed 0 in SFT and of seed 1 in PPO."""

    def pipeline(folder):
        stages = {
            name: Stage(Path(folder, name), None, [], [], {"seed": seed}, {})
            for name, seed in (("main_squad", 0), ("train_ppo", 1))
        }
        return Pipeline(Path(folder), "kgram", stages, [])

    (series,) = group_pipelines([pipeline("a"), pipeline("b")])
    assert series.label == "kgram, 2 runs"


def test_a_run_that_broke_off_says_itself_what_it_is(workplace):
    folder = workplace("kgram")
    shutil.move(folder / "checkpoints/kgram_train_ppo", folder / "checkpoints/hot")
    (folder / "checkpoints/hot/final.pt").unlink()
    (pipeline,) = find_pipelines(["checkpoints"])
    assert pipeline.stages["train_ppo"].folder.name == "hot" and pipeline.stages["train_ppo"].steps
    (folder / "checkpoints/hot/args.json").unlink()
    (pipeline,) = find_pipelines(["checkpoints"])
    assert "train_ppo" not in pipeline.stages
    assert any("checkpoints/hot: no final.pt, and no args.json" in note for note in pipeline.notes)


def test_a_damaged_stage_is_named_and_the_rest_is_shown(workplace):
    folder = workplace("kgram")
    damaged = folder / "checkpoints/kgram_train_dpo/final.pt"
    damaged.write_bytes(damaged.read_bytes()[:-99])
    with open(folder / "checkpoints/kgram_train_ppo/metrics.jsonl", "a") as log:
        log.write("{\n")
    (folder / "checkpoints/kgram_train_reward_model/metrics.jsonl").unlink()
    ended, page = report()
    text = "".join(page.text)
    assert "left out: checkpoints/kgram_train_dpo/final.pt" in text
    assert "left out: checkpoints/kgram_train_ppo/metrics.jsonl line" in text
    assert "kgram_train_reward_model has no log (metrics.jsonl), no curves" in text
    assert any("left out" in line for line in ended.err)


def test_a_second_run_that_was_given_too_is_not_missed(workplace):
    folder = workplace("kgram")
    shutil.copytree(folder / "checkpoints/kgram_train_ppo", folder / "checkpoints/mine")
    (pipeline,) = find_pipelines(["checkpoints"])
    assert pipeline.notes == [
        "checkpoints/mine is a second train_ppo, left out: give it as a folder of its own to "
        "--checkpoints"
    ]
    first, second = find_pipelines(["checkpoints", "checkpoints/mine"])
    assert not first.notes and list(second.stages) == [
        "main_squad", "train_reward_model", "train_ppo",
    ]


def test_a_mark_in_a_folders_name_stays_text(workplace):
    folder = workplace("kgram", ["main_squad"])
    shutil.move(folder / "checkpoints", folder / "a<img src=x>&$x^2$ b")
    _, page = report("--checkpoints", "a<img src=x>&$x^2$ b")
    text = "".join(page.text)
    assert "a<img src=x>&$x^2$ b" in text and page.tags.count("img") == 4
    assert "report.py --checkpoints 'a<img src=x>&$x^2$ b' --limit 9" in text


def made_up(questions, golds, answers):
    points = [f1_score(a, g) for a, g in zip(answers, golds, strict=True)]
    asked = [QAExample(f"c {q}", q, g) for q, g in zip(questions, golds, strict=True)]
    held_out = EvaluationSet([], [], asked, [str(n) for n in range(len(asked))], [], 0.0, 0)
    ones = [0] * len(asked)
    em = [float(p == 1) for p in points]
    return held_out, PolicyResult(answers, [], em, points, [], ones, [])


def test_questions_and_answers_are_escaped():
    evil = "</td></table><script>alert('x')</script>\x00\ud800&lt;"
    held_out, result = made_up([evil], [(evil,)], [evil + ' "><img src=//evil.org onerror=x>'])
    page = Strict(str(tag("div", answers_table(1, held_out, {evil: result}))))
    text = "".join(page.text)
    assert "script" not in page.tags and "img" not in page.tags and not page.urls
    assert "<script>alert('x')</script>\ufffd\ufffd&lt;" in text and "evil.org" in text


def test_white_space_stays_as_it_is():
    assert tag("p", "a\r\nb\x0c\tc\x0b") == "<p>a\r\nb\x0c\tc\ufffd</p>"


def test_the_first_questions_are_those_where_policies_differ():
    golds = [("red",), ("blue",), ("green",), ("grey",)]
    questions = ["q0", "q1", "q2", "q3"]
    held_out, one = made_up(questions, golds, ["red", "no", "green", "grey"])
    _, two = made_up(questions, golds, ["red", "blue", "grass", "grey"])
    text = few_answers(held_out, {"SFT": one, "PPO": two}, count=2)
    assert text.index(">q1") < text.index(">q2") and ">q0" not in text and ">q3" not in text
    assert "2 of 4 held-out questions, those where the answers differ most" in text
    assert "differ" not in few_answers(held_out, {"SFT": one}).split("<table")[0]


def test_rows_start_where_policies_differ():
    golds = [("red",), ("blue",), ("green",)]
    held_out, one = made_up(["q0", "q1", "q2"], golds, ["red", "no", "green"])
    _, two = made_up(["q0", "q1", "q2"], golds, ["red", "blue", "grass"])
    text = answers_table(1, held_out, {"SFT": one, "PPO": two})
    places = [text.index(f">q{n}") for n in (1, 2, 0)]
    assert places == sorted(places)
    assert 'data-gain="1.0000"' in text and 'data-gain="-1.0000"' in text


@pytest.mark.parametrize(
    ("answer", "golds", "right"),
    [
        ("the red red fox", ["Red Fox"], "red fox"),
        ("Fox, red!", ["red fox"], "Fox, red!"),
        ("old fox", ["a hen", "the fox"], "fox"),
        ("", ["fox"], ""),
        ("the a", ["fox"], ""),
    ],
)
def test_right_words_are_those_that_f1_counts(answer, golds, right):
    words = marked_words(answer, golds)
    assert [w for w, _ in words] == answer.split()
    assert " ".join(w for w, good in words if good) == right


# --- logs ---


def test_a_log_is_read_as_it_was_written(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text(
        '{"step": 0, "event": "evaluation", "eval_em": 1.5, "eval_em_low": null}\n'
        '{"step": 1, "loss": 2}\n{"step": 2, "lo'
    )
    steps, evaluations = read_log(log)
    assert steps == [{"step": 1, "loss": 2.0}]
    assert evaluations[0]["em"] == 1.5 and math.isnan(evaluations[0]["em_low"])
    assert read_log(tmp_path / "none") == ([], [])


@pytest.mark.parametrize(
    "line", ["{", "[1]", "3", '{"loss": 1}', '{"step": "x"}', '{"step": 1, "loss": "high"}',
             '{"step": 1, "loss": [1]}', '{"step": null}', "\xff", '{"step": 1e999}'],
)
def test_a_broken_line_is_refused_with_its_number(line, workplace):
    folder = workplace("kgram", ["main_squad"])
    log = folder / "checkpoints/kgram_main_squad/metrics.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    told = refusal("report", [])
    assert "kgram_main_squad/metrics.jsonl line 3" in told and "expected a JSON object" in told


def test_what_is_no_pipeline_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = refusal("report", [])
    assert "--checkpoints checkpoints given" in told and "main_squad.py" in told
    Path("file").write_text("x")
    for place in ("file", "file/below"):
        assert f"--output_dir {place} given" in refusal("report", ["--output_dir", place])
    (tmp_path / "checkpoints/kgram_main_squad").mkdir(parents=True)
    (tmp_path / "checkpoints/kgram_main_squad/final.pt").write_bytes(b"x")
    assert "final.pt" in refusal("report", [])
    assert not Path("report").exists()


# --- what the plots draw ---


def test_runs_are_laid_side_by_side_by_step():
    logs = [[{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}], [{"step": 2, "a": 4.0}, {"step": 3}]]
    steps, values = by_step(logs, "a")
    assert steps.tolist() == [1, 2]
    np.testing.assert_array_equal(values, [[1, 2], [np.nan, 4]])
    assert by_step(logs, "b")[1].shape == (2, 0)


def ppo(*evaluations):
    stage = Stage(Path("x"), None, [], list(evaluations), {}, {})
    return Pipeline(Path("."), "kgram", {"train_ppo": stage}, [])


def test_the_track_of_a_hacked_reward_by_hand():
    """Reward 0.1 to 0.5 while F1 falls from 60 to 40: +0.4 and -20 at a KL of 3 nats. The intervals
    are those of the paired gains, not the wider ones of the values."""

    def record(step, kl, reward, f1, **gains):
        values = {"kl_nats": kl, "reward": reward, "f1": f1}
        ends = {f"{k}_{e}": v + d for k, v in values.items() for e, d in (("low", -9), ("high", 9))}
        return {"step": step, **values, **ends, **gains}

    def gain(name, value, arm):
        return {f"{name}_gain{e}": value + d for e, d in (("", 0), ("_low", -arm), ("_high", arm))}

    start, gains = record(0, 0, 0.1, 60), gain("reward", 0.4, 0.1) | gain("f1", -20, 2)
    pipeline = ppo(start, {"step": 3, "em": 1}, record(5, 3, 0.5, 40, **gains))
    track = hacking_track(pipeline)
    assert track["step"].tolist() == [0, 5]
    np.testing.assert_allclose(track["kl_nats"][:, 0], [0, 3])
    np.testing.assert_allclose(track["reward"], [[0, 0, 0], [0.4, 0.3, 0.5]])
    np.testing.assert_allclose(track["f1"], [[0, 0, 0], [-20, -22, -18]])
    assert "intervals of the paired difference" in hacking_plot("x", Series("a", [pipeline])).note
    # An older log has the values alone.
    older = ppo(start, record(5, 3, 0.5, 40))
    np.testing.assert_allclose(hacking_track(older)["f1"][1], [-20, np.nan, np.nan])
    plot = hacking_plot("x", Series("a", [older]))
    assert "without intervals" in plot.note and png(plot)
    assert hacking_track(ppo(record(0, 0, 0.1, 60))) is None
    assert hacking_track(Pipeline(Path("."), "kgram", {}, [])) is None


def test_several_tracks_are_their_mean_where_all_have_an_evaluation():
    def track(steps, kl):
        kl = np.array(kl, float)
        return {"step": np.array(steps), **{n: np.stack([kl] * 3, -1) for n in
                ("kl_nats", "reward", "f1")}}

    mean = mean_track([track([0, 5, 9], [0, 1, 2]), track([0, 9], [0, 4])])
    assert mean["step"].tolist() == [0, 9]
    np.testing.assert_allclose(mean["kl_nats"], [[0, 0, 0], [3, 2, 4]])


def test_pairs_of_several_runs_are_pooled():
    """1 pair in order and 9 that are not: 10% of 10."""
    from matplotlib.figure import Figure

    in_order = KindScores(np.ones(1), np.zeros(1), Interval(100.0, math.nan, math.nan, 1))
    others = KindScores(np.zeros(9), np.ones(9), Interval(0.0, 0.0, 0.0, 9))
    runs = [Measured(None, {}, {}, {"shuffled": scores}) for scores in (in_order, others)]
    axes = Figure().subplots()
    reward_plot("x", "kinds", runs).draw(axes, LIGHT)
    assert [text.get_text() for text in axes.texts] == ["10% of 10"]


def losses(label, runs):
    """A series of DPO runs whose loss was never finite."""
    steps = [{"step": n, "loss": math.nan} for n in (1, 2)]
    return Series(label, [
        Pipeline(Path(label), "kgram", {
            "train_dpo": Stage(Path(label, str(n)), None, steps, [], {}, {})
        }, []) for n in range(runs)
    ])


@pytest.mark.parametrize("series", [[losses("a", 1)], [losses("a", 2)],
                                    [losses("a", 1), losses("b", 1)]], ids=len)
def test_what_was_never_finite_is_an_empty_panel(series):
    """null in every line of metrics.jsonl: of one run, of two seeds, of two models."""
    (curve,) = [c for c in CURVES if (c.stage, c.name) == ("train_dpo", "loss")]
    assert png(draw_curve(curve, series))


@pytest.mark.parametrize(
    ("loss_type", "unit", "lines"),
    [
        ("sigmoid", "DPO loss (nats/pair)", ["ln 2: no preference"]),
        ("orpo", "DPO loss (nats/pair)", ["ln 2: no preference"]),
        ("ipo", "ipo loss", []),
        ("simpo", "simpo loss", []),
    ],
)
def test_the_line_at_ln_2_is_of_losses_that_have_it(loss_type, unit, lines):
    """A policy that prefers nothing has an ipo loss of 25 at beta 0.1, in squared nats."""
    from matplotlib.figure import Figure

    steps = [{"step": n, "loss": 0.7} for n in (1, 2)]
    stage = Stage(Path("x"), None, steps, [], {"loss_type": loss_type}, {})
    series = Series("a", [Pipeline(Path("."), "kgram", {"train_dpo": stage}, [])])
    (curve,) = [c for c in CURVES if (c.stage, c.name) == ("train_dpo", "loss")]
    axes = Figure().subplots()
    draw_curve(curve, [series]).draw(axes, LIGHT)
    assert axes.get_ylabel() == unit
    assert [text.get_text() for text in axes.texts] == lines


def test_rules_are_drawn_once_unless_the_questions_differ():
    def table(rule):
        policy = {"em": Interval(1, 0, 2)}
        return [{"rule: first": {"em": Interval(rule, 0, 50)}, "train_ppo": policy}]

    same = quality_plot("em", "EM (%)", [("a", table(10)), ("b", table(10))])
    other = quality_plot("em", "EM (%)", [("a", table(10)), ("b", table(20))])
    assert "questions differ" in other.note and "questions differ" not in same.note
    assert png(same) != png(other)


def test_ppo_logs_what_the_track_needs(chain_of):
    log = chain_of("kgram").folder / "checkpoints/kgram_train_ppo/metrics.jsonl"
    _, evaluations = read_log(log)
    assert [e["step"] for e in evaluations] == [0, 2, 4]
    assert evaluations[0]["kl_nats"] == pytest.approx(0, abs=1e-5)
    for e in evaluations:
        low, high = e["reward_low"], e["reward_high"]
        # One context has no interval.
        assert math.isnan(low + high) if e["contexts"] == 1 else low <= e["reward"] <= high
    final = chain_of("kgram").metrics["train_ppo"]
    assert final["reward"] == pytest.approx(evaluations[-1]["reward"])


@pytest.mark.parametrize("stage", STAGES)
def test_gains_are_logged_after_the_first_evaluation(stage, chain_of):
    """The last of them are those that the checkpoint stores."""
    folder = chain_of("kgram").folder / f"checkpoints/kgram_{stage}"
    _, evaluations = read_log(folder / "metrics.jsonl")
    first, last = {}, {}
    for evaluation in evaluations:
        (first if evaluation["step"] == 0 else last).update(evaluation)
    assert not any("_gain" in name for name in first)
    stored = {
        name: math.nan if value is None else value
        for name, value in chain_of("kgram").metrics[stage].items()
        if "_gain" in name and not name.endswith("_contexts")
    }
    logged = {name: value for name, value in last.items() if "_gain" in name}
    assert stored and logged == pytest.approx(stored, nan_ok=True)
    for name in (n.removesuffix("_gain") for n in logged if n.endswith("_gain")):
        assert logged[f"{name}_gain"] == pytest.approx(last[name] - first[name], abs=1e-9), name


# --- what the page says ---


def changed(stage, lineage=({"stage": "main_squad"},), evaluations=(), **gains):
    """The sentence on a stage with these gains: (value, low, high), from 20 contexts."""
    metrics = {}
    for name, ends in gains.items():
        for end, value in zip(("", "_low", "_high"), ends, strict=True):
            metrics[f"{name}_gain{end}"] = value
        metrics[f"{name}_gain_contexts"] = 20
    found = Checkpoint(stage, "kgram", None, None, {}, {}, list(lineage), metrics)
    pipeline = Pipeline(
        Path("."), "kgram", {stage: Stage(Path("x"), found, [], list(evaluations), {}, {})}, []
    )
    return stage_sentences(pipeline)


@pytest.mark.parametrize(
    ("stage", "gains", "words"),
    [
        ("train_dpo", {"em": (15.2, 11.9, 19.1)},
         "DPO answers 15 more of 100 questions exactly right than the model it started from; the "
         "95% interval is 12 to 19."),
        ("train_dpo", {"em": (-15.2, -19.1, -11.9), "preference_accuracy": (1.0, 0.5, 2.0)},
         "DPO answers 15 fewer of 100 questions exactly right than the model it started from; the "
         "95% interval is 12 to 19."),
        ("train_dpo", {"em": (0.999999, -1.0, 3.0)},
         "DPO shows no clear difference from the model it started from: it answers 1 more of 100 "
         "questions exactly right, and the 95% interval is from 1 fewer to 3 more."),
        ("train_dpo", {"em": (0.7, 0.2, 1.4)},
         "DPO answers 0.7 more of 100 questions exactly right than the model it started from; the "
         "95% interval is 0.2 to 1.4."),
        ("train_dpo", {"preference_accuracy": (3.0, 1.0, 5.0)},
         "DPO puts 3 more of 100 held-out pairs in the right order than the model it started from; "
         "the 95% interval is 1 to 5."),
        ("train_ppo", {"em": (2.0, 1.0, 3.0), "reward": (-0.5, -0.75, -0.25), "f1": (-4, -6, -2)},
         "PPO answers 2 more of 100 questions exactly right than the model it started from; the "
         "95% interval is 1 to 3. Its reward fell by 0.50; the 95% interval is 0.25 to 0.75."),
        ("train_ppo", {"reward": (0.02, -0.01, 0.05)},
         "The reward of PPO did not clearly change: +0.02, and the 95% interval is -0.01 to "
         "+0.05."),
        ("train_ppo", {"reward": (0.5, 0.25, 0.75), "f1": (-4.0, -6.0, -2.0)},
         "The reward of PPO rose by 0.50; the 95% interval is 0.25 to 0.75. The reward rose while "
         "F1 fell: the reward was hacked."),
    ],
)
def test_a_stage_in_a_sentence(stage, gains, words):
    assert changed(stage, **gains) == [words]


def test_sft_from_scratch_is_compared_with_the_untrained_model():
    (line,) = changed("main_squad", lineage=(), em=(70.0, 60.0, 80.0))
    assert "exactly right than the untrained model; the 95% interval is 60 to 80." in line
    assert changed("main_squad") == []


@pytest.mark.parametrize(
    ("accuracy", "contexts", "words"),
    [
        ((93.1, 90.6, 95.2), 20,
         "puts 93 of 100 held-out pairs in the right order (95% interval: 91 to 95); a coin would "
         "get 50."),
        ((51.0, 45.0, 57.0), 20,
         "(95% interval: 45 to 57), which is not clearly different from the 50 of a coin."),
        ((51.0, 45.0, 57.0), 5,
         "(95% interval: 45 to 57); a coin would get 50 (from 5 contexts, expected at least 10: "
         "intervals of so few are too narrow, no verdict)."),
        ((93.1, math.nan, math.nan), 1,
         "in the right order; a coin would get 50 (from 1 context, expected at least 10: no "
         "interval, no verdict)."),
    ],
)
def test_a_reward_model_in_a_sentence(accuracy, contexts, words):
    names = ("accuracy", "accuracy_low", "accuracy_high")
    record = dict(zip(names, accuracy, strict=True)) | {"step": 9, "contexts": contexts}
    (line,) = changed("train_reward_model", evaluations=[record])
    assert line.startswith("The reward model puts ") and line.endswith(words)


def test_the_last_of_an_odd_number_of_plots_is_wide():
    plots = [Plot(f"p{n}", "?", "", lambda axes, theme: None) for n in range(3)]
    for count, wide in ((1, [0]), (2, []), (3, [2])):
        figures = plot_grid(plots[:count]).split("<figure")[1:]
        assert [n for n, f in enumerate(figures) if "wide-plot" in f] == wide
        assert [f.count("<source") for f in figures] == [
            3 if n in wide else 1 for n in range(count)
        ]


def test_several_seeds_are_their_mean_from_the_least_to_the_most():
    assert mean_of([Interval(1, 0, 2), Interval(4, 3, 5)]) == Interval(2.5, 1, 4)
    assert mean_of([Interval(1, 0, 2)]) == Interval(1, 0, 2)
