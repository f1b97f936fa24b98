"""What users do with the scripts: few contexts, equal prompts, short runs, parents that are trained
again, and data that was trained on."""

import argparse
import base64
import dataclasses
import io
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import flags, outcome, refusal
from test_ppo import STOP, VOCAB, models_of, rollout_of, settings

import main_squad
import train_dpo
import train_ppo
import train_reward_model
from src.data.encoding import encode_paragraphs
from src.data.squad_dataset import ContextGroups, context_groups
from src.data.squad_loader import load_from_identity
from src.data.squad_types import Paragraph, Question
from src.data.tokenizers.tokenizer import load_tokenizer
from src.data.trained_contexts import context_hash
from src.evaluation.compare_policies import print_table
from src.evaluation.evaluation_set import baselines_of, held_out_questions
from src.evaluation.intervals import Interval, bootstrap_interval, caution
from src.inference.prompts import prompts_of_flags
from src.model.model import build_model
from src.preference.pairs import held_out_pairs, pair_points
from src.report.measure import measure_pipeline
from src.report.pipelines import Pipeline, Stage, find_pipelines
from src.report.sentences import stage_sentences
from src.rl import metrics as ppo_metrics
from src.training import planning, run_data
from src.training.optimizer import learning_rate
from src.training.reporting import compare
from src.utils.checkpoint_utils import Checkpoint, load_checkpoint
from src.utils.constants import PRETRAINED_DEFAULTS, STAGES
from src.utils.errors import UserError
from src.utils.payload import load_payload, save_payload
from tests.faults.runs import small_squad

PICO = load_tokenizer("pico")


def generated(*argv):
    """The JSON lines of generate_from_checkpoint.py with the k-gram."""
    ended = outcome("generate_from_checkpoint", ["--model_type", "kgram", "--json", *argv])
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out]


# --- intervals of few contexts ---


def figures(contexts, before=0.0, after=1.0):
    """(before, after): accuracy of six pairs a context, all wrong and then all right."""
    count = 6 * contexts
    groups = [n // 6 for n in range(count)]
    return tuple({"accuracy": ([v] * count, [0.01] * count, groups)} for v in (before, after))


def test_one_context_has_no_interval():
    """Of six pairs of one context one turns: 16.67%, and there is nothing to resample."""
    points = [1.0, *[0.0] * 5]
    found = bootstrap_interval(points, [0.01] * 6, ["one"] * 6)
    assert found.value == pytest.approx(100 / 6) and found.groups == 1
    assert math.isnan(found.low) and math.isnan(found.high) and found.verdict() is None
    assert found.in_words(sign="+") == "+16.67 (one context)"
    # A second context in which nothing is counted gives no interval either.
    found = bootstrap_interval([*points, 0.0], [*[0.01] * 6, 0.0], [*["one"] * 6, "two"])
    assert found.groups == 1 and math.isnan(found.low)
    assert found.as_json() == {"value": pytest.approx(100 / 6), "low": None, "high": None}


@pytest.mark.parametrize(("contexts", "sign"), [(1, None), (2, None), (9, None), (10, 1), (40, 1)])
def test_a_verdict_needs_ten_contexts(contexts, sign, capsys):
    metrics = compare("train_reward_model", *figures(contexts))
    said = capsys.readouterr().err
    assert metrics["accuracy_gain"] == pytest.approx(100)
    assert metrics["accuracy_gain_contexts"] == contexts
    assert ("better in accuracy" in said) == (sign == 1) != ("no verdict in accuracy" in said)
    assert ("expected at least 10" in said) == (sign is None)
    assert ("above the figure before training" in said) == (sign == 1)
    assert (metrics["accuracy_gain_low"] is None) == (contexts == 1)


def test_the_caution_names_how_few():
    def of(*groups):
        return caution(Interval(1, 0, 2, n) for n in groups)

    assert of(10, 12, None) == "" and of(0) == ""
    assert of(1).startswith("from 1 context, expected at least 10: no interval")
    assert of(4, 4, 30).startswith("from 4 contexts, expected at least 10: intervals of so few")
    assert of(2, 9, 30).startswith("from 2 to 9 contexts")


def test_the_table_has_no_interval_of_one_context(capsys):
    print_table({"a": {"em": bootstrap_interval([1.0, 0.0], [0.01] * 2, [7, 7])}}, {"em": "%"})
    said = capsys.readouterr().out
    assert "50.00 (one context)" in said and "[" not in said
    assert "caution: from 1 context" in said
    print_table({"a": {"em": bootstrap_interval([1.0] * 10, [0.01] * 10, range(10))}}, {"em": "%"})
    said = capsys.readouterr().out
    assert "100.00 [100.00, 100.00]" in said and "caution" not in said


def pipeline_with(tmp_path, **metrics):
    found = Checkpoint("train_dpo", "kgram", None, PICO, {}, {}, [], metrics)
    stage = Stage(tmp_path, found, [], [], {}, {})
    return Pipeline(tmp_path, "kgram", {"train_dpo": stage}, [])


@pytest.mark.parametrize(
    ("contexts", "few"), [(1, True), (9, True), (10, False), (None, False)]
)
def test_the_report_gives_no_verdict_from_few_contexts(contexts, few, tmp_path):
    """None: an older checkpoint, which does not say."""
    gain = {"em_gain": 16.67, "em_gain_low": 10.0, "em_gain_high": 20.0}
    if contexts == 1:
        gain |= {"em_gain_low": None, "em_gain_high": None}
    if contexts:
        gain["em_gain_contexts"] = contexts
    (line,) = stage_sentences(pipeline_with(tmp_path, **gain))
    assert line.startswith("DPO answers 17 more of 100 questions exactly right than ")
    assert ("expected at least 10" in line) == ("no verdict" in line) == few


def test_a_context_that_comes_with_every_question_anew_is_one():
    """Twelve rows of one context, as exports with one question a row have it, are one context."""
    rows = [
        Paragraph(f"t{n}", "Ada met Bo in 1204.", (Question(f"q{n}", "Who?", ("Ada",), (0,)),))
        for n in range(12)
    ]
    encoded = encode_paragraphs(rows, PICO)
    held_out = held_out_questions(rows, encoded, 512)
    assert held_out.groups == [0] * 12
    assert bootstrap_interval([1.0] * 12, [0.01] * 12, held_out.groups).groups == 1
    pairs = held_out_pairs(rows, encoded, PICO, 512, "rows", None)
    scores = torch.zeros(len(pairs.in_order()), 2)
    assert len(scores) > 1 and set(pair_points(scores, pairs)[2]) == {0}


# --- generation ---

PROMPT = "Context: Ada met Bo in 1204.\nQuestion: When?\nAnswer:"


def test_equal_prompts_get_different_samples(kgram):
    """A prompt's samples depend on its place, so three equal lines have three different ones. How
    many prompts come after it plays no part."""
    line = json.dumps({"prompt": PROMPT}) + "\n"
    Path("three.jsonl").write_text(3 * line)
    Path("two.jsonl").write_text(2 * line)
    argv = ["--temperature", "1", "--max_new_tokens", "12", "--num_samples", "2"]
    three = [r["answers"] for r in generated("--prompts_file", "three.jsonl", *argv)]
    assert len({tuple(answers) for answers in three}) == 3
    assert [r["answers"] for r in generated("--prompts_file", "two.jsonl", *argv)] == three[:2]
    assert [r["answers"] for r in generated("--prompt", PROMPT, *argv)] == three[:1]


@pytest.mark.parametrize("value", ["1e-39", "1e-300", "0.0009"])
def test_a_temperature_that_float32_cannot_divide_by_is_refused(value, kgram):
    """Logits divided by 1e-39 are infinite in float32, and log-probabilities then NaN."""
    line = refusal("generate_from_checkpoint", ["--prompt", PROMPT, "--temperature", value])
    assert f"'{value}' given, expected 0 (greedy) or at least 0.001" in line
    line = refusal("train_ppo", ["--temperature", value])
    assert f"'{value}' given, expected a number of at least 0.001" in line


def test_the_least_temperature_is_as_good_as_greedy(kgram):
    (greedy,) = generated("--prompt", PROMPT)
    (sampled,) = generated("--prompt", PROMPT, "--temperature", "0.001")
    assert sampled["answers"] == greedy["answers"]
    assert all(math.isfinite(logp) for logp in sampled["logp_nats"])


def test_a_typed_line_end_is_one_wherever_it_is_typed(kgram, monkeypatch):
    """In flags and in a pipe. JSON has escapes of its own, so a file's text stays as it is."""
    typed = PROMPT.replace("\n", "\\n")
    flag = generated("--prompt", typed)
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed + "\n"))
    assert generated() == flag == generated("--prompt", PROMPT)
    assert flag[0]["prompt"] == PROMPT
    (two,) = generated("--context", "One\\ntwo.", "--question", "Who?")
    assert two["context"] == "One\ntwo."
    Path("file.jsonl").write_text(json.dumps({"prompt": "the \\nu of it"}))
    assert generated("--prompts_file", "file.jsonl")[0]["prompt"] == "the \\nu of it"


def test_a_long_answer_is_told_to_be_shorter(kgram):
    """The advice is not to lower --max_new_tokens, which has no part in scoring."""
    argv = ["--model_type", "kgram", "--prompt", PROMPT, "--checkpoint",
            "checkpoints/kgram_train_reward_model/final.pt", "--answer"]
    for answer, line in (("word " * 2000, "given, expected at most 1022 in the model's block of"),
                         ("word " * 510, "shorten it or the --answer of ")):
        ended = outcome("generate_from_checkpoint", [*argv, answer])
        assert ended.code == 2 and line in ended.err[-1], ended.err
        assert "max_new_tokens" not in ended.err[-1]


# --- the length of a run ---


@pytest.mark.parametrize("script", [main_squad, train_dpo, train_reward_model, train_ppo])
@pytest.mark.parametrize("steps", [2, 6, 20, 57, 200])
def test_every_stage_reaches_its_rate_early(script, steps):
    """Warm-up is a share of the run, so a run of a few steps reaches --lr too."""
    args = script.build_parser().parse_args([])
    rates = [learning_rate(s, steps, args.warmup, args.lr, args.hold) for s in range(steps)]
    assert max(rates) == args.lr and rates.index(args.lr) <= 0.06 * steps
    for stage, defaults in PRETRAINED_DEFAULTS.items():
        assert 0 <= defaults["warmup"] <= 0.1, stage


def test_warmup_is_a_share_and_a_number_of_steps_is_refused():
    for value in ("1", "20", "-0.1"):
        line = refusal("train_dpo", ["--warmup", value])
        assert f"'{value}' given, expected a number of at least 0 and below 1" in line


def article(number, sentences=60):
    """A long paragraph with a question at its beginning, in its middle and at its end."""
    words = [f"In {1200 + number} the fair of Boru{n} met Ada{n}." for n in range(sentences)]
    context = " ".join(words)
    golds = [f"Ada{n}" for n in (0, sentences // 2, sentences - 1)]
    questions = tuple(
        Question(f"{number}-{gold}", "Whom did it meet?", (gold,), (context.index(f"{gold}."),))
        for gold in golds
    )
    return Paragraph(f"t{number}", context, questions)


def planned_pairs(block, articles=40, asked_steps=None, **values):
    """(steps, trees) of so many long articles, planned as train_dpo.py does."""
    paragraphs = [article(n) for n in range(articles)]
    encoded = encode_paragraphs(paragraphs, PICO)
    units = context_groups(encoded, block)
    questions = run_data.Questions(
        paragraphs, encoded, units, paragraphs[:2], encoded[:2],
        held_out_questions(paragraphs[:2], encoded[:2], 2048), {"dataset": "fairs"},
    )
    defaults = {"epochs": 1.0, "batch_size": 4, "max_steps": asked_steps, "eval_every": None,
                "corruptions": "unrelated=1", "max_pairs": None, "label_noise": 0.0,
                "pairs": None, "seed": 0}
    args = argparse.Namespace(**{**defaults, **values})
    model = build_model("kgram", {"vocab_size": PICO.vocab_size, "n_embd": 8, "block_size": block})
    parent = Checkpoint("main_squad", "kgram", model, PICO, {}, {}, [], {})
    train, _, steps = run_data.planned_pairs(args, asked_steps, questions, parent)
    assert steps == args.max_steps
    return steps, len(train.trees.trees)


def test_an_epoch_of_pairs_is_one_pass_over_the_batches_that_are_dealt(capsys):
    """Batches hold windows: 40 contexts in windows of 64 tokens with three questions each are 120
    trees and 30 steps. Counted by contexts there would be 10."""
    assert planned_pairs(2048) == (10, 40)
    assert planned_pairs(64) == (30, 120)
    assert planned_pairs(64, epochs=2.5) == (75, 120)
    assert planned_pairs(64, epochs=0.5) == (15, 60)
    assert planned_pairs(64, asked_steps=7) == (7, 30)  # 28 are needed, 10 contexts have 30


def test_a_run_too_short_to_learn_from_says_so(capsys):
    for steps, count in ((1, "1 step"), (19, "19 steps"), (20, None)):
        args = argparse.Namespace(max_steps=steps, eval_every=None)
        planning.plan_steps(args, ContextGroups([(0, (0,))], 0, 512, 0))
        said = capsys.readouterr().err
        assert said.startswith(f"a run of {count}, fewer than 20") if count else not said
    planned_pairs(2048)
    assert "a run of 10 steps, fewer than 20" in capsys.readouterr().err


# --- stages that are older than what they started from ---


def path_of(stage):
    return f"checkpoints/kgram_{stage}/final.pt"


def trained_again(stage):
    argv = [*flags(stage, "kgram"), "--overwrite", "--lr", "0.2"]
    ended = outcome(stage, argv)
    assert ended.code == 0, ended.err


def resumed(stage):
    return outcome(stage, ["--model_type", "kgram", "--resume"])


def test_a_finished_stage_is_not_finished_from_another_parent(kgram):
    """SFT was trained again: --resume of each later stage is refused, though it is finished."""
    for stage in STAGES:
        assert resumed(stage).code == 0
    trained_again("main_squad")
    for stage in STAGES[1:]:
        for _ in range(2):  # and again without last.pt
            ended = resumed(stage)
            assert ended.code == 2, ended.err
            line = f"{path_of('main_squad')} is not what the finished run in checkpoints/kgram_"
            assert f"{line}{stage}" in ended.err[-1] and "--overwrite" in ended.err[-1]
            Path(f"checkpoints/kgram_{stage}/last.pt").unlink(missing_ok=True)
    assert resumed("main_squad").code == 0


def test_a_finished_ppo_is_not_finished_from_another_reward_model(kgram):
    trained_again("train_reward_model")
    assert path_of("train_reward_model") in resumed("train_ppo").err[-1]
    assert resumed("train_dpo").code == 0
    Path(path_of("train_reward_model")).unlink()
    ended = resumed("train_ppo")
    assert ended.code == 2 and "started from, is not there, restore it" in ended.err[-1]


def test_a_finished_stage_checks_its_data_and_its_tokenizer(workplace):
    workplace("kgram", [])
    Path("mine.json").write_text(json.dumps(small_squad(8)))
    lines = [f"{base64.b64encode(bytes([b])).decode()} {b}" for b in range(256)]
    Path("mine.tiktoken").write_text("\n".join(lines))
    data = ["--dataset", "mine.json", "--tokenizer", "mine.tiktoken"]
    assert outcome("main_squad", [*flags("main_squad", "kgram"), *data]).code == 0
    assert outcome("train_dpo", flags("train_dpo", "kgram")).code == 0
    Path("mine.tiktoken").write_text("\n".join([*lines[:97], f"{lines[98][:4]} 97",
                                                f"{lines[97][:4]} 98", *lines[99:]]))
    ended = resumed("main_squad")
    assert ended.code == 2 and "the tokenizer mine.tiktoken is not what" in ended.err[-1]
    Path("mine.tiktoken").write_text("\n".join(lines))
    assert resumed("main_squad").code == resumed("train_dpo").code == 0
    Path("mine.json").write_text(json.dumps(small_squad(9)))
    for stage in STAGES[:2]:
        ended = resumed(stage)
        assert ended.code == 2 and "the data of the finished run in" in ended.err[-1]


def test_evaluation_refuses_a_policy_of_an_earlier_sft_model(kgram):
    """Its KL would be measured from another model than it started from. SFT is named first."""
    trained_again("main_squad")
    argv = ["--model_type", "kgram", "--limit", "4", "--checkpoint", path_of("main_squad")]
    ended = outcome("eval_dpo", [*argv, path_of("train_dpo")])
    assert ended.code == 2 and not ended.out
    assert ended.err[-1].startswith(
        f"eval_dpo: {path_of('train_dpo')} started from an earlier {path_of('main_squad')} than is"
    )
    ended = outcome("eval_dpo", argv)
    assert ended.code == 0 and any("train_reward_model/final.pt started from an earlier" in line
                                   for line in ended.err)


def test_evaluation_says_whose_sft_model_and_reward_model_it_is(kgram):
    trained_again("train_reward_model")
    shutil.copytree("checkpoints/kgram_main_squad", "elsewhere")
    other = [*flags("main_squad", "kgram"), "--output_dir", "other", "--seed", "1"]
    assert outcome("main_squad", other).code == 0
    argv = ["--model_type", "kgram", "--limit", "4", "--checkpoint"]
    ended = outcome("eval_dpo", [*argv, "other/final.pt", path_of("train_ppo")])
    assert ended.code == 0, ended.err
    said = "\n".join(ended.err)
    kl = f"started from {path_of('main_squad')}: its KL and wins here are against other/final.pt"
    assert f"{path_of('train_ppo')} {kl}" in said
    assert f"was trained with an earlier {path_of('train_reward_model')} than is there now" in said
    said = outcome("eval_dpo", [*argv, "elsewhere/final.pt", path_of("train_dpo")]).err
    assert not any("started from" in line for line in said), "a copy is the same checkpoint"


def test_ppo_says_that_its_reward_model_is_of_an_earlier_sft_model(kgram):
    trained_again("main_squad")
    ended = outcome("train_ppo", [*flags("train_ppo", "kgram"), "--output_dir", "new"])
    assert ended.code == 0, ended.err
    line = f"{path_of('train_reward_model')} started from an earlier {path_of('main_squad')} than"
    assert any(said.startswith(line) for said in ended.err)


# --- the longest answer ---


def with_golds(lengths):
    """A paragraph whose questions have golds of so many tokens (digits are one each)."""
    golds = ["1" * n for n in lengths]
    context = "a " + " b ".join(golds)
    questions = tuple(
        Question(f"q{n}", "Which?", (gold,), (context.index(gold),)) for n, gold in enumerate(golds)
    )
    return Paragraph("t", context, questions)


def encoded_tokens(paragraph):
    (encoded,) = encode_paragraphs([paragraph], PICO)
    return [len(question.golds[0]) + 1 for question in encoded.questions]


def test_the_longest_answer_is_what_99_of_100_training_answers_need():
    """But at least 16 tokens, and at most 128 and a quarter of the block."""
    short, long = encoded_tokens(with_golds([60, 90]))
    for lengths, block, wanted in (
        ([60] * 99 + [90], 1024, short),  # one in a hundred is longer
        ([60] * 98 + [90] * 2, 1024, long),
        ([1] * 100, 1024, 16),
        ([900] * 100, 1024, 128),
        ([900] * 100, 100, 25),
    ):
        encoded = encode_paragraphs([with_golds(lengths)], PICO)
        assert run_data.longest_answer(encoded, block) == wanted
    assert 16 < short < long < 128


def test_the_ceiling_is_what_can_be_written_and_is_in_the_window():
    """Golds of 2, 4 and 12 tokens and one that the window cuts off."""
    paragraph = with_golds([1, 3, 11, 25])
    encoded = encode_paragraphs([paragraph], PICO)
    lengths = encoded_tokens(paragraph)
    assert lengths == sorted(set(lengths))
    for number, longest in enumerate(lengths, 1):
        found = held_out_questions([paragraph], encoded, 1024, longest)
        assert found.ceiling == 25 * number and found.max_answer_tokens == longest
        assert f"perfect copy within {longest} tokens" in found.summary()
        assert f"EM {25 * number:.1f}" in found.summary()
        copies = baselines_of(found, PICO, []).perfect_copy
        assert sum(map(bool, copies)) == number
        assert found.gold_tokens() == [n if n <= longest else 0 for n in lengths]
    need = len(encoded[0].questions[0].tokens) + lengths[-1] + 1
    cut = held_out_questions([paragraph], encoded, need + len(encoded[0].tokens) - 2, lengths[-1])
    assert cut.ceiling == 75 and cut.lost == 0.25


def test_a_ceiling_of_golds_that_the_context_does_not_hold_is_0():
    paragraph = Paragraph("t", "Ada met Bo.", (Question("q", "Who?", ("Eve",), (0,)),))
    encoded = encode_paragraphs([paragraph], PICO)
    assert held_out_questions([paragraph], encoded, 1024).ceiling == 0


def stored_flag(path, name):
    return load_checkpoint(path).flags[name]


def test_the_longest_answer_is_stored_inherited_and_a_flag(workplace):
    workplace("kgram", [])
    content = small_squad(8)
    Path("mine.json").write_text(json.dumps(content))
    first = [*flags("main_squad", "kgram"), "--dataset", "mine.json"]
    ended = outcome("main_squad", [*first, "--max_answer_tokens", "7"])
    assert ended.code == 0, ended.err
    assert any("perfect copy within 7 tokens (--max_answer_tokens): EM " in line
               for line in ended.err)
    assert outcome("train_dpo", flags("train_dpo", "kgram")).code == 0
    assert stored_flag(path_of("train_dpo"), "max_answer_tokens") == 7
    ended = outcome("eval_dpo", ["--model_type", "kgram"])
    assert ended.code == 0 and "rule: perfect copy within 7 tokens" in "\n".join(ended.out)
    ended = outcome("eval_dpo", ["--model_type", "kgram", "--max_answer_tokens", "3"])
    assert "perfect copy within 3 tokens" in "\n".join(ended.err)
    argv = flags("train_ppo", "kgram")
    at = argv.index("--max_new_tokens")
    ended = outcome("train_ppo", [*argv[:at], *argv[at + 2 :], "--reward", "f1"])
    assert ended.code == 0, ended.err
    assert stored_flag(path_of("train_ppo"), "max_new_tokens") == 7
    seven, twelve = (generated("--prompt", PROMPT, "--max_new_tokens", n) for n in ("7", "12"))
    assert generated("--prompt", PROMPT) == seven != twelve
    # Other data of a later stage have a default of their own.
    Path("other.json").write_text(json.dumps(small_squad(12)))
    argv = [*flags("train_reward_model", "kgram"), "--dataset", "other.json"]
    ended = outcome("train_reward_model", argv)
    assert ended.code == 0, ended.err
    assert stored_flag(path_of("train_reward_model"), "max_answer_tokens") == 16


def test_golds_too_long_to_be_sampled_are_counted(capsys):
    paragraph = with_golds([1, 3, 11])
    encoded = encode_paragraphs([paragraph], PICO)
    units = context_groups(encoded, 512)
    questions = run_data.Questions([paragraph], encoded, units, [], [], None, {})
    for number, longest in enumerate(encoded_tokens(paragraph), 1):
        missed = run_data.out_of_reach(questions, longest)
        assert missed == {(0, q) for q in range(number, 3)}
        line = ppo_metrics.reach(len(missed), units, longest)
        start = f"{3 - number} of 3 training questions have no gold within --max_new_tokens"
        assert line.startswith(f"{start} {longest}") == (number < 3)
    assert line == f"all 3 training questions have a gold within --max_new_tokens {longest}"


def test_no_missing_stop_is_held_against_a_gold_that_cannot_be_reached():
    """Three samples of two questions, none of which stops; the second question is excused."""
    models = models_of("kgram", critic=False)
    s = settings(algorithm="rloo", num_samples=3, max_new_tokens=2, missing_eos_penalty=5.0)
    never = torch.zeros(VOCAB).index_fill(0, torch.tensor([STOP]), -torch.inf)
    models.policy.logits = lambda hidden: never.expand(*hidden.shape[:-1], -1)
    prompts = [([1], [[2], [3]])]

    def total(excused):
        score = torch.ones(6)
        found = rollout_of(models, prompts, lambda trees: score, 0.0, 0, s, excused)
        assert not found.stopped.any()
        return found.rewards.sum(1).tolist()

    assert total(None) == total([False, False]) == [-4.0] * 6
    assert total([False, True]) == [-4.0] * 3 + [1.0] * 3


# --- the KL controller ---


def test_a_default_run_can_move_its_coefficient():
    """57 steps of 256 episodes. The horizon is a tenth of them, and a step's error counts as 20% at
    most: the coefficient can rise or fall sevenfold."""
    units = ContextGroups([(p, (0, 1, 2, 3)) for p in range(30_000)], 0, 1024, 0)
    args = train_ppo.build_parser().parse_args(["--kl_target", "1"])
    args.max_steps = 57
    ppo_metrics.set_horizon(args, units)
    assert args.kl_horizon == round(57 * 16 * 4 * 4 / 10)
    for kl, error in ((9.0, 0.2), (0.0, -0.2)):
        coefficient = 1.0
        for _ in range(57):
            coefficient = ppo_metrics.next_kl_coef(args, coefficient, kl, 256)
        assert coefficient == pytest.approx((1 + error * 256 / args.kl_horizon) ** 57)
        assert max(coefficient, 1 / coefficient) > 7
    args.max_steps, args.kl_horizon = 1, None  # of a small set: one step of 256 episodes
    ppo_metrics.set_horizon(args, units)
    assert args.kl_horizon == 256
    given = train_ppo.build_parser().parse_args(["--kl_target", "1", "--kl_horizon", "50"])
    ppo_metrics.set_horizon(given, units)
    without = train_ppo.build_parser().parse_args([])
    ppo_metrics.set_horizon(without, units)
    assert given.kl_horizon == 50 and without.kl_horizon is None


# --- what was trained on is not held out ---


def four_by_four(path, first=0):
    """A SQuAD file of 4 titles, each of 4 contexts with 4 questions."""
    data = []
    for a in range(first, first + 4):
        paragraphs = []
        for c in range(4):
            names = [f"Ada{a}{c}{n}" for n in range(4)]
            context = f"In 12{a}{c} " + ", ".join(names) + " met."
            qas = [
                {"id": f"{a}-{c}-{n}", "question": f"Who came as number {n}?",
                 "answers": [{"text": name, "answer_start": context.index(name)}]}
                for n, name in enumerate(names)
            ]
            paragraphs.append({"context": context, "qas": qas})
        data.append({"title": f"Meeting {a}", "paragraphs": paragraphs})
    Path(path).write_text(json.dumps({"version": "1.1", "data": data}))


def contexts_in(path):
    articles = json.loads(Path(path).read_text())["data"]
    return {paragraph["context"] for article in articles for paragraph in article["paragraphs"]}


@pytest.fixture
def trained_on_four(workplace):
    """SFT trained on four.json: 12 contexts to train on, 4 held out."""
    workplace("kgram", [])
    four_by_four("four.json")
    ended = outcome("main_squad", [*flags("main_squad", "kgram"), "--dataset", "four.json"])
    assert ended.code == 0, ended.err
    return path_of("main_squad")


def measured(*argv):
    ended = outcome("eval_dpo", ["--model_type", "kgram", "--predictions", "out.json", *argv])
    return ended, json.loads(Path("out.json").read_text()) if ended.code == 0 else {}


def test_a_file_that_was_trained_on_is_not_held_out(trained_on_four):
    """`eval_dpo.py --dataset four.json`: of 64 questions 48 were trained on and are left out."""
    sft = ["--checkpoint", trained_on_four, "--dataset", "four.json"]
    ended, answers = measured(*sft)
    assert ended.code == 0 and len(answers) == 16, ended.err
    assert "four.json: 16 held out" in "\n".join(ended.err)
    line = "--dataset four.json: 48 of 64 questions are left out, their contexts were trained on"
    assert any(said.startswith(line) for said in ended.err)
    counts = {"questions": 16, "trained_on": 0, "left_out_as_trained_on": 48}
    assert ended.result.items() >= counts.items()
    # All of them, where that is asked for, and marked beside every metric.
    ended, answers = measured(*sft, "--include_trained")
    assert len(answers) == 64 and "48 of 64 trained on" in "\n".join(ended.err)
    rows = [line for line in ended.out if line.startswith(("checkpoints/", "rule: "))]
    assert all("(48 of 64 trained on)" in row for row in rows if "[" in row) and len(rows) > 4
    assert (ended.result["questions"], ended.result["trained_on"]) == (64, 48)


def test_blanks_and_file_names_do_not_hide_what_was_trained_on(trained_on_four):
    content = json.loads(Path("four.json").read_text())
    for article in content["data"]:
        article["title"] += " anew"
        for paragraph in article["paragraphs"]:
            paragraph["context"] += "  \n"
    Path("again").mkdir()
    Path("again/dev.json").write_text(json.dumps(content))
    four_by_four("again/train.json", first=5)
    ended, answers = measured("--checkpoint", trained_on_four, "--dataset", "again")
    assert ended.code == 0 and len(answers) == 16, ended.err
    # Of what was never seen, nothing is left out.
    ended, answers = measured("--checkpoint", trained_on_four, "--dataset", "again",
                              "--split", "train")
    assert len(answers) == 64 and not any("left out, their" in line for line in ended.err)


def test_a_split_of_which_nothing_is_held_out_is_refused_in_one_line(workplace):
    workplace("kgram", [])
    Path("data").mkdir()
    four_by_four("data/train.json")
    four_by_four("data/dev.json", first=5)
    data = ["--dataset", "data", "--num_examples", "64"]
    ended = outcome("main_squad", [*flags("main_squad", "kgram"), *data])
    assert ended.code == 0, ended.err
    split = ["--checkpoint", path_of("main_squad"), "--split", "train"]
    ended, _ = measured(*split)
    assert ended.code == 2 and not ended.out
    line = "--dataset data --split train given, but nothing of it is held out: all 16 contexts"
    assert line in ended.err[-1]
    assert "add --include_trained" in ended.err[-1]
    ended, answers = measured(*split, "--include_trained")
    assert ended.code == 0 and len(answers) == 64
    assert any("64 trained on (0 more" in line for line in ended.err)
    assert any(line.startswith("trained on ") for line in ended.out)


@pytest.mark.parametrize("stage", ["train_dpo", "train_reward_model", "train_ppo"])
def test_later_stages_hold_out_only_what_no_ancestor_was_trained_on(stage, trained_on_four):
    """`--dataset OTHER`, whose dev file was trained on in part, and then as a whole."""
    Path("other").mkdir()
    four_by_four("other/train.json", first=5)
    shutil.copy("four.json", "other/dev.json")
    own = ["--reward", "f1"] if stage == "train_ppo" else []
    argv = [*flags(stage, "kgram"), *own, "--dataset", "other", "--eval_limit", "100"]
    ended = outcome(stage, argv)
    assert ended.code == 0, ended.err
    assert any("48 of 64 questions are left out" in line for line in ended.err)
    found = load_checkpoint(path_of(stage))
    trained = contexts_in("other/train.json") | contexts_in("four.json")
    assert len(found.trained_on) == 12 + 16 and len(trained) == 32
    # What this stage was trained on is held out for nobody, nor what its parent was.
    kept = {context_hash(context) for context in trained} & set(found.trained_on.tolist())
    assert len(kept) == 28
    content = json.loads(Path("four.json").read_text())
    encoded = {context_hash(c) for c in contexts_in("four.json")} & kept
    content["data"] = [a for a in content["data"]
                       if context_hash(a["paragraphs"][0]["context"]) in encoded]
    Path("other/dev.json").write_text(json.dumps(content))
    again = [*argv, "--overwrite"]
    ended = outcome(stage, again)
    assert ended.code == 2 and "nothing of it is held out: all 12 contexts" in ended.err[-1]
    ended = outcome(stage, [*again, "--include_trained"])
    assert ended.code == 0, ended.err
    assert any(line.startswith(f"{stage} trained on, after step 0") for line in ended.err)
    assert any("against the model it started from (trained on):" in line for line in ended.err)
    assert load_checkpoint(path_of(stage)).metrics["trained_on_questions"] == 48


def test_what_the_reward_model_was_trained_on_is_held_out_for_no_policy(trained_on_four):
    """Its scores there are not what they are elsewhere."""
    four_by_four("other.json", first=5)
    argv = [*flags("train_reward_model", "kgram"), "--dataset", "other.json"]
    assert outcome("train_reward_model", argv).code == 0
    ended, answers = measured("--checkpoint", trained_on_four, "--dataset", "other.json")
    assert ended.code == 0 and len(answers) == 16, ended.err
    Path(path_of("train_reward_model")).unlink()
    assert len(measured("--checkpoint", trained_on_four, "--dataset", "other.json")[1]) == 64


NO_PROMPT = argparse.Namespace(prompt=None, question=None, prompts_file=None)


def test_the_report_and_generation_leave_out_what_was_trained_on(trained_on_four, monkeypatch):
    """DPO was trained on contexts that are held out in the data of SFT."""
    held = [p.context for p in load_from_identity(load_checkpoint(trained_on_four).data).validation]
    content = json.loads(Path("four.json").read_text())
    (article,) = [a for a in content["data"] if a["paragraphs"][0]["context"] in held]
    Path("mine").mkdir()
    four_by_four("mine/dev.json", first=5)
    Path("mine/train.json").write_text(json.dumps({"version": "1.1", "data": [
        {**article, "paragraphs": article["paragraphs"][:3]}]}))
    argv = [*flags("train_dpo", "kgram"), "--dataset", "mine"]
    assert outcome("train_dpo", argv).code == 0
    ended = outcome("report", ["--limit", "100"])
    assert ended.code == 0, ended.err
    assert any("12 questions of four.json are left out" in line for line in ended.err)
    assert not any("--include_trained" in line for line in ended.err)  # which it has not
    assert "4 held-out questions, greedy answers" in Path("report/report.html").read_text()
    # SFT's own checkpoint saw none of them; DPO's data are others.
    monkeypatch.setattr(sys, "stdin", None)
    assert {answered["context"] for answered in generated()} <= set(held)
    assert len(prompts_of_flags(NO_PROMPT, load_checkpoint(trained_on_four))) == 3
    dpo = load_checkpoint(path_of("train_dpo"))
    sft_data = dataclasses.replace(dpo, data=load_checkpoint(trained_on_four).data)
    assert len(prompts_of_flags(NO_PROMPT, sft_data)) == 1
    Path("mine/train.json").write_text(json.dumps({"version": "1.1", "data": [article]}))
    assert outcome("train_dpo", [*argv, "--overwrite"]).code == 0
    pipeline = find_pipelines(["checkpoints"])[0]
    assert measure_pipeline(pipeline, 100, 0, torch.device("cpu"), {}) is None
    (note,) = [note for note in pipeline.notes if "nothing of it is held out" in note]
    assert "eval_dpo.py --include_trained evaluates on them" in note


def test_the_set_of_contexts_is_small_and_checked(trained_on_four):
    found = load_checkpoint(trained_on_four)
    held_out = load_from_identity(found.data).validation
    trained = contexts_in("four.json") - {p.context for p in held_out}
    assert found.trained_on.tolist() == sorted(map(context_hash, trained))
    assert context_hash("a  b\nc ") == context_hash("a b c") != context_hash("a bc")
    payload = load_payload(trained_on_four)
    for wrong in (None, [1, 2], torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64)):
        save_payload("wrong.pt", {**payload, "trained_on": wrong})
        with pytest.raises(UserError, match="found no trained_on in it"):
            load_checkpoint("wrong.pt")
