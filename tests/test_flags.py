"""Flags arrive where they belong: a value that is no default is given here and seen there."""

import argparse
import importlib
import json
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import call, flags, outcome
from test_run import parser, toy_with_gradient

from src.data.encoding import encode_paragraphs
from src.data.negative_controls import answers_of, apply_control
from src.data.squad_dataset import ContextGroups, context_groups, indexed_batches
from src.data.squad_loader import load_squad
from src.data.tokenizers.tokenizer import load_tokenizer
from src.model.model import build_model
from src.training import device, planning, reporting
from src.training.device import choose_device, choose_precision
from src.training.optimizer import scheduled_step
from src.training.run_data import load_pairs, load_questions
from src.utils.checkpoint_utils import Checkpoint
from src.utils.constants import STAGES
from src.utils.errors import UserError
from src.utils.exit_handling import NonFiniteError
from src.utils.payload import load_payload, save_payload
from tests.faults.runs import small_squad

# --- the step ---


def updated(*argv, loss=2.0):
    """(optimizer, what was logged) of update number 6 of 10, on 8 gradients of 3."""
    toy, optimizer = toy_with_gradient(3.0)
    run = argparse.Namespace(args=parser().parse_args(["--lr", "1", "--warmup", "0.2", *argv]))
    return optimizer, scheduled_step(run, optimizer, 5, 10, loss)


def test_the_rate_is_held_as_long_as_the_flag_says():
    """To step 6 of 10; not held, it falls from step 2 on, to 5/8 by step 5."""
    assert updated("--hold", "0.6")[1]["learning_rate"] == 1.0
    assert updated()[1]["learning_rate"] == 5 / 8


@pytest.mark.parametrize("clip", [0.5, 4.0])
def test_gradients_are_clipped_to_the_norm_that_the_flag_says(clip):
    """Each of the 8 becomes clip / sqrt(8), of which Adam's first moment holds a tenth."""
    optimizer, logged = updated("--grad_clip", str(clip))
    assert logged["gradient_norm"] == pytest.approx(3 * 8**0.5)
    for state in optimizer.state.values():
        moment = state["exp_avg"]
        torch.testing.assert_close(moment, torch.full_like(moment, 0.1 * clip / 8**0.5))


def test_a_step_that_is_not_finite_is_left_out_where_the_flag_says_so(capsys):
    optimizer, _ = updated("--skip_nonfinite", loss=float("nan"))
    assert not optimizer.state and "step left out" in capsys.readouterr().err
    with pytest.raises(NonFiniteError):
        updated(loss=float("nan"))


def planned(count=10, **values):
    """(max_steps, eval_every) of so many units in batches of 4."""
    units = ContextGroups([(n, (0,)) for n in range(count)], 0, 512, 0)
    defaults = {"max_steps": None, "epochs": 1.0, "batch_size": 4, "eval_every": None}
    args = argparse.Namespace(**{**defaults, **values})
    assert planning.plan_steps(args, units) == args.max_steps
    return args.max_steps, args.eval_every


def test_steps_are_planned_by_hand():
    """10 units are 3 batches of 4 an epoch; a run has at least one step."""
    assert planned(epochs=2.5) == (8, 3)  # 7.5 rounded up, and a third
    assert planned(epochs=0.1) == (1, 1)
    assert planned(epochs=2.5, max_steps=5) == (5, 2)
    assert planned(epochs=3.0, eval_every=0) == (9, 0)
    with pytest.raises(UserError, match="no training question fits"):
        planned(0)


@pytest.mark.parametrize("stage", STAGES)
def test_seed_and_weight_decay_arrive_in_every_stage(stage, workplace, monkeypatch):
    """The seed where batches are dealt; decay at the optimizer, in the group of the matrices."""
    workplace("kgram", STAGES[: STAGES.index(stage)])
    seeds = []

    def noted(deal):
        def dealt(*about, seed, **options):
            seeds.append(seed)
            return deal(*about, seed=seed, **options)

        return dealt

    script = importlib.import_module(stage)
    name = "indexed_batches" if hasattr(script, "indexed_batches") else "pair_batches"
    monkeypatch.setattr(script, name, noted(getattr(script, name)))
    own = ["--max_steps", "1", "--seed", "7", "--weight_decay", "0.25"]
    call(stage, [*flags(stage, "kgram"), *own])
    assert set(seeds) == {7}  # SFT may deal them twice, to count their tokens
    groups = load_payload(f"checkpoints/kgram_{stage}/last.pt")["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.25, 0.0]


# --- main_squad.py ---


@pytest.mark.parametrize("control", ["none", "shuffled_answers", "no_context"])
def test_sft_trains_and_is_evaluated_on_what_seed_and_control_say(control, workplace, monkeypatch):
    """The batches of seed 7 as the control leaves them; questions are held out with contexts, but
    where there are none to learn from."""
    workplace("kgram", [])
    trained, evaluated = [], []
    log_step, evaluate = reporting.log_step, reporting.evaluate_and_log

    def logged(run, step, started, examples, trees, *about, **shown):
        trained.append(trees)
        log_step(run, step, started, examples, trees, *about, **shown)

    def asked(run, step, model, tokenizer, held_out, *about):
        evaluated.extend(held_out.prompts)
        return evaluate(run, step, model, tokenizer, held_out, *about)

    monkeypatch.setattr(reporting, "log_step", logged)
    monkeypatch.setattr(reporting, "evaluate_and_log", asked)
    call("main_squad", [*flags("main_squad", "kgram"), "--seed", "7", "--control", control])

    data = load_squad("pico", seed=7, num_examples=60)
    encoded = encode_paragraphs(data.train, load_tokenizer("pico"))
    units = context_groups(encoded, 1024)
    batches = indexed_batches(encoded, units, batch_size=2, seed=7)
    plain = [next(batches).trees for _ in range(4)]
    answers = answers_of(encoded)
    wanted = [
        apply_control(t, control, f"7/{step}", 1024, answers) for step, t in enumerate(plain)
    ]
    assert trained == wanted and (control == "none") == (wanted == plain)
    assert evaluated
    assert all(bool(context) == (control != "no_context") for context, _ in evaluated)


# --- the data ---


PICO = load_tokenizer("pico")


def questions_of(content, **values):
    """The questions of a file with this content, of 30 articles with 2 questions each."""
    Path("mine.json").write_text(json.dumps(content))
    defaults = {"difficulty": None, "num_examples": None, "strict_data": False, "seed": 0,
                "eval_limit": None, "answer_metric": "squad", "metric": None,
                "max_answer_tokens": None}
    args = argparse.Namespace(dataset="mine.json", **{**defaults, **values})
    return load_questions(args, PICO, 512, "main_squad")


def test_a_file_with_a_row_of_no_use_is_refused_where_the_flag_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = small_squad(30)
    content["data"][3]["paragraphs"][0]["qas"][0]["answers"][0]["text"] = " "
    found = questions_of(content)
    assert sum(len(p.questions) for p in found.train) + len(found.held_out.examples) == 59
    with pytest.raises(UserError, match="empty answer"):
        questions_of(content, strict_data=True)


def test_as_many_questions_are_evaluated_as_the_flag_says(tmp_path, monkeypatch):
    """Of 30 articles 3 are held out, with 6 questions."""
    monkeypatch.chdir(tmp_path)
    for limit, expected in ((None, 6), (5, 5), (100, 6)):
        assert len(questions_of(small_squad(30), eval_limit=limit).held_out.examples) == expected


def test_pairs_have_the_mix_of_the_flag(tmp_path, monkeypatch):
    """In training and held out; without the flag there are several kinds."""
    monkeypatch.chdir(tmp_path)
    questions = questions_of(small_squad(30))
    model = build_model("kgram", {"vocab_size": PICO.vocab_size, "n_embd": 8, "block_size": 512})
    parent = Checkpoint("main_squad", "kgram", model, PICO, {}, {}, [], {})
    for mix, kinds in (("unrelated=1", {"unrelated"}), ("shifted=1", {"shifted"}), (None, None)):
        args = argparse.Namespace(
            corruptions=mix, seed=0, batch_size=4, max_pairs=None, label_noise=0.0,
            max_answer_tokens=4,
        )
        for pair_set in load_pairs(args, questions, parent, 5):
            found = {pair.kind for pair in pair_set.in_order()}
            assert found == kinds if kinds else len(found) > 1


# --- the machine ---


def test_products_have_the_precision_of_the_flag(monkeypatch):
    """For all that follows, so it is switched back. A CPU chooses bfloat16 by itself only where it
    multiplies it, for a wide model.
    """
    one, wide, narrow = torch.ones(2, 2), mock.Mock(width=576), mock.Mock(width=128)
    try:
        for given, model, has_it, chosen in (
            ("bfloat16", narrow, False, "bfloat16"), ("float32", wide, True, "float32"),
            ("auto", wide, True, "bfloat16"), ("auto", narrow, True, "float32"),
            ("auto", wide, False, "float32"),
        ):
            monkeypatch.setattr(device, "cpu_multiplies_bfloat16", lambda has_it=has_it: has_it)
            args = argparse.Namespace(device="cpu", dtype=given)
            cpu = choose_device(args)
            assert args.dtype == given  # auto is settled once the model is known
            choose_precision(args, cpu, model)
            assert args.dtype == chosen and (one @ one).dtype == getattr(torch, chosen)
    finally:
        torch.set_autocast_enabled("cpu", False)


def test_dpo_logs_the_reward_of_a_model_that_trains_nothing(workplace):
    """--reward_checkpoint of train_dpo.py: the same training, and two more figures."""
    folder = workplace("kgram", ["main_squad", "train_reward_model"])
    plain = call("train_dpo", [*flags("train_dpo", "kgram"), "--output_dir", "plain"])
    reward = "checkpoints/kgram_train_reward_model/final.pt"
    argv = [*flags("train_dpo", "kgram"), "--reward_checkpoint", reward, "--output_dir", "scored"]
    scored = call("train_dpo", argv)
    assert {n: v for n, v in scored.items() if n in plain} == plain
    assert {"reward", "kl_nats"} <= scored.keys() - plain.keys()
    log = [json.loads(line) for line in (folder / "scored/metrics.jsonl").read_text().splitlines()]
    assert log[0]["eval_kl_nats"] == pytest.approx(0, abs=1e-5)
    assert any(abs(record.get("eval_kl_nats", 0)) > 1e-5 for record in log)


@pytest.mark.parametrize("stage", ["train_dpo", "train_ppo"])
def test_a_reward_model_of_a_smaller_block_is_refused(stage, workplace):
    """A transformer has no positions beyond its block; DPO's first evaluation asked for them."""
    workplace("kgram", ["main_squad", "train_reward_model"])
    payload = load_payload("checkpoints/kgram_train_reward_model/final.pt")
    payload["config"]["block_size"] = 64
    save_payload("small.pt", payload)
    ended = outcome(stage, [*flags(stage, "kgram"), "--reward_checkpoint", "small.pt"])
    assert ended.code == 2
    assert "small.pt reads 64 tokens, the policy writes up to 1024" in ended.err[-1]
