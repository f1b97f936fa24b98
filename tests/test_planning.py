"""The length of a run: steps, warm-up, epochs of pairs, and the horizon of the KL controller."""

import argparse

import pytest
from conftest import refusal

import main_squad
import train_dpo
import train_ppo
import train_reward_model
from src.data.encoding import encode_paragraphs
from src.data.squad_dataset import ContextGroups, context_groups
from src.data.squad_types import Paragraph, Question
from src.data.tokenizers.tokenizer import load_tokenizer
from src.evaluation.evaluation_set import held_out_questions
from src.model.model import build_model
from src.rl import metrics as ppo_metrics
from src.training import planning, run_data
from src.training.optimizer import learning_rate
from src.utils.checkpoint_utils import Checkpoint
from src.utils.constants import PRETRAINED_DEFAULTS

PICO = load_tokenizer("pico")


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
