"""train_ppo.py: what it logs, rewards of your own, where it stops, and how wrong flags end."""

import argparse
import copy
import json
import math

import pytest
import torch
from conftest import flags, outcome, refusal
from test_ppo import models_of, rollout_of, settings

import train_ppo
from src.data.tokenizers.tokenizer import load_tokenizer
from src.evaluation.evaluation_set import (
    ANSWER_BUDGET,
    MAX_ANSWER_TOKENS,
    EvaluationSet,
    evaluate_policy,
)
from src.evaluation.squad_metrics import QAExample
from src.inference.logprobs import build_tree_batch, last_hidden
from src.model.model import build_model
from src.rl import metrics as metrics_module
from src.rl.algorithm_table import ALGORITHMS, CHOICES, ROWS
from src.rl.models import Models, load_models, reward_and_kl
from src.rl.rewards import function_rewards, make_reward, model_rewards, reward_function
from src.rl.rollout import Rollout, settings_of
from src.utils.errors import UserError
from src.utils.exit_handling import ends_in_one_line
from src.utils.payload import load_payload


def loss_lines(model_type):
    with open(f"checkpoints/{model_type}_train_ppo/metrics.jsonl") as log:
        return [r for r in map(json.loads, log) if "loss" in r]


def test_the_run_logs_its_schedule_and_its_first_ratio(chain_of, model_type, monkeypatch):
    monkeypatch.chdir(chain_of(model_type).folder)
    lines = loss_lines(model_type)
    # A warm-up of 1 step, then linear to 0: 1, 3/3, 2/3, 1/3 of the peak.
    expected = [1e-4, 1e-4, 2e-4 / 3, 1e-4 / 3]
    assert [r["learning_rate"] for r in lines] == pytest.approx(expected)
    assert all(abs(r["first_approx_kl_nats"]) < 1e-8 for r in lines)
    assert lines[0]["kl_nats"] == pytest.approx(0, abs=1e-6)
    wanted = {
        "step", "loss", "examples_per_second", "reward_mean", "kl_nats", "entropy_nats",
        "eos_rate", "answer_tokens", "distinct_fraction", "clip_fraction", "value_loss", "kl_coef",
    }
    assert wanted <= lines[0].keys()
    last = load_payload(f"checkpoints/{model_type}_train_ppo/last.pt")
    assert {group["eps"] for group in last["optimizer"]["param_groups"]} == {1e-5}


def test_explained_variance_is_the_share_that_values_foresee_of_returns():
    """Returns 0 and 4, values 1 and 3: errors of variance 1 where the returns have 4; the values,
    of variance 1, would be foreseen by nothing of the returns."""
    mask, nothing = torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 1)
    rollout = Rollout(
        trees=[([1], [([2], [[], []])])], rows=[slice(0, 2)], mask=mask, logp=nothing,
        reference_logp=nothing, score=nothing[:, 0], score_parts={}, stopped=mask[:, 0],
        rewards=nothing, values=torch.tensor([[1.0], [3.0]]), advantages=nothing,
        returns=torch.tensor([[0.0], [4.0]]), kl_coef=0.0,
    )
    figures = metrics_module.describe(rollout, settings(algorithm="ppo"))
    assert figures["explained_variance"] == pytest.approx(0.75)
    figures = metrics_module.describe(rollout, settings(algorithm="rloo"))
    assert "explained_variance" not in figures


def test_the_baseline_of_reinforce_is_the_mean_of_the_batch():
    """Rewards of 0, 0, 1 and 7 over two questions: 2 is taken from each, and nothing whitened."""
    s = settings(algorithm="reinforce", num_samples=2, missing_eos_penalty=0.0)
    score = torch.tensor([0.0, 0.0, 1.0, 7.0])
    models = models_of("kgram", critic=False)
    found = rollout_of(models, [([1], [[2], [3]])], lambda trees: score, 0.0, 0, s).advantages
    torch.testing.assert_close(found, (score - 2)[:, None].expand_as(found))


CPU = torch.device("cpu")


def test_the_critic_starts_as_the_reward_model_where_there_is_one(
    chain_of, model_type, monkeypatch
):
    """Its values at EOS are what the head alone gives of the normalised scores; without a reward
    model they are 0, and only PPO has a critic."""
    monkeypatch.chdir(chain_of(model_type).folder)

    def models_with(**values):
        default = {"checkpoint": None, "reward_checkpoint": None, "model_type": model_type}
        has_critic = values.pop("has_critic", True)
        given = {"reward": "model", **values}
        return load_models(argparse.Namespace(**default, **given), has_critic, CPU)

    parents, reward, models = models_with()
    eos_id = parents[0].tokenizer.eos_id
    trees = [([3, 4, 5], [([6, 7], [[8], [], [9, 10, 11]]), ([12], [[13, 14]])])]
    tree_batch = build_tree_batch(trees, eos_id, reads_eos=True)

    def values_of(critic):
        with torch.no_grad():
            return critic.values(last_hidden(critic.backbone, tree_batch))

    scores = model_rewards(reward, trees, eos_id)
    with torch.no_grad():
        of_head = reward.normalise(reward.head(last_hidden(reward.backbone, tree_batch)))
    assert torch.allclose(values_of(models.critic), of_head, atol=1e-5) and scores.std() > 1e-3
    assert not values_of(models_with(reward="f1")[2].critic).any()
    assert models_with(has_critic=False)[2].critic is None


def test_evaluation_samples_no_longer_answers_than_its_windows_have_room_for():
    """--max_new_tokens 48, a prompt that leaves 33 tokens of the block, and a policy that does not
    stop: the KL is that of the 32 tokens that evaluation allows."""
    tokenizer, block, stop = load_tokenizer("pico"), 50, load_tokenizer("pico").eos_id
    config = {"vocab_size": tokenizer.vocab_size, "n_layer": 1, "n_embd": 8, "n_head": 2}
    torch.manual_seed(0)
    policy = build_model("transformer", {**config, "block_size": block})
    reference = copy.deepcopy(policy)
    # Both are uniform, but for EOS, which is out of the policy's reach.
    never = torch.zeros(tokenizer.vocab_size).index_fill(0, torch.tensor([stop]), -torch.inf)
    policy.logits = lambda hidden: never.expand(*hidden.shape[:-1], -1)
    reference.logits = lambda hidden: torch.zeros(*hidden.shape[:-1], len(never))
    prompt = [65] * (block - ANSWER_BUDGET - 2), [[66, 67]]
    asked = [QAExample("a context", "a question?", ("gold",))]
    held_out = EvaluationSet([prompt], [[68]], asked, ["q"], [0], 0.0, 0)
    f1 = make_reward("f1", None, tokenizer)
    more = reward_and_kl(f1, Models(policy, reference, None), held_out, stop, 48)
    found = more(evaluate_policy(policy, tokenizer, held_out))
    token = torch.tensor(len(never) / (len(never) - 1)).log()
    assert found["kl_nats"][0] == pytest.approx([MAX_ANSWER_TOKENS * float(token)], rel=1e-3)
    assert found["reward"] == ([0.0], [1.0], [0])


def parsed(*argv):
    """Flags as a run has them after `check`, and the row that they ask for."""
    parser = train_ppo.build_parser()
    args = parser.parse_args([str(word) for word in argv])
    return args, train_ppo.check(args, parser)


@pytest.mark.parametrize("algorithm", ROWS)
def test_an_algorithm_is_its_row_and_a_resumed_run_reads_it_again(algorithm):
    args, row = parsed("--algorithm", algorithm)
    assert row == ROWS[algorithm]
    assert train_ppo.check(args, train_ppo.build_parser()) == row  # with its choices filled in
    assert args.ppo_epochs == args.minibatches == (1 if algorithm == "reinforce" else 2)
    if algorithm in ALGORITHMS:
        assert {c: getattr(args, c) for c in CHOICES} == {c: getattr(row, c) for c in CHOICES}
        assert args.kl_coef == row.kl_coef
    assert args.beta == (0.1 if algorithm == "online_dpo" else None)


@pytest.mark.parametrize(
    ("flag", "value"),
    [("advantage", "group"), ("ratio", "sequence"), ("mean", "answers"), ("kl_in", "loss"),
     ("kl_estimator", "k3"), ("kl_coef", 0.3)],
)
def test_each_choice_is_a_flag(flag, value):
    row = parsed(f"--{flag}", value)[1]
    assert row == ALGORITHMS["ppo"]._replace(**{flag: value})


def test_the_ends_of_the_range_are_flags():
    ppo = ALGORITHMS["ppo"]
    assert parsed("--clip_range", 0.1)[1] == ppo._replace(clip_low=0.1, clip_high=0.1)
    higher = ppo._replace(clip="higher", clip_low=0.1, clip_high=0.3)
    argv = ["--clip", "higher", "--clip_low", 0.1, "--clip_high", 0.3]
    assert parsed(*argv)[1] == higher
    unclipped = parsed("--advantage", "group_no_std", "--clip", "none")[1]
    assert unclipped.on_policy and unclipped.mean == "tokens"


@pytest.mark.parametrize("flag", [("--algorithm", "dr_grpo"), ("--mean", "constant")])
def test_the_constant_is_the_longest_answer_of_the_data_where_the_flag_is_left_out(flag):
    args, row = parsed(*flag)
    args.max_new_tokens = 9  # as `load_questions` settles it, after the row was read
    assert settings_of(args, row, 0, CPU).algorithm.length == 9


@pytest.mark.parametrize("algorithm", ["grpo", "gspo", "raft", "online_dpo"])
def test_a_run_of_the_family_ends_with_its_row_in_its_flags(algorithm, workplace):
    """--resume of the finished run says the same; another choice is refused."""
    workplace("kgram", ["main_squad"])
    argv = [*flags("train_ppo", "kgram"), "--reward", "f1", "--algorithm", algorithm]
    ended = outcome("train_ppo", argv)
    assert ended.code == 0, ended.err
    final = load_payload("checkpoints/kgram_train_ppo/final.pt")["flags"]
    assert final["algorithm"] == algorithm
    if algorithm in ALGORITHMS:
        assert final["clip_low"] == ALGORITHMS[algorithm].clip_low
        other = ["--resume", "--mean", "constant"]
        assert "--mean constant given to resume" in outcome("train_ppo", [*argv, *other]).err[-1]
        logged = "kl_loss_nats" in loss_lines("kgram")[0]
        assert logged == (ALGORITHMS[algorithm].kl_coef > 0)
    else:
        assert {"chosen_answers", "chosen_reward_mean"} <= loss_lines("kgram")[0].keys()
    assert outcome("train_ppo", [*argv, "--resume"]).result == ended.result


UPPER = "def upper(prediction, golds, context, question):\n    return prediction[:1].isupper()\n"


@pytest.mark.parametrize(
    ("algorithm", "name"), [("ppo", "transformer"), ("rloo", "lstm"), ("reinforce", "kgram")]
)
def test_a_function_of_your_own_is_optimised(algorithm, name, workplace, monkeypatch):
    """--reward module:function, here 1 for an answer that begins with a capital letter."""
    folder = workplace(name, ["main_squad"])
    (folder / f"upper_for_{name}.py").write_text(UPPER)
    monkeypatch.syspath_prepend(folder)
    steps = "40" if algorithm == "reinforce" else "20"
    ended = outcome("train_ppo", [
        *flags("train_ppo", name), "--algorithm", algorithm, "--max_steps", steps,
        "--reward", f"upper_for_{name}:upper", "--lr", "0.03", "--kl_coef", "0",
        "--kl_limit", "1000", "--missing_eos_penalty", "0", "--num_samples", "8",
        "--max_new_tokens", "3", "--minibatches", "1" if algorithm == "reinforce" else "4",
    ])
    assert ended.code == 0, ended.err
    rewards = [r["reward_mean"] for r in loss_lines(name)]
    first, last = sum(rewards[:3]) / 3, sum(rewards[-3:]) / 3
    assert first < 0.35 and last > first + 0.3, rewards


@pytest.mark.parametrize("reward", ["f1", "em"])
def test_the_metric_itself_is_a_reward(reward, workplace):
    """No reward checkpoint is asked for, and every mean is a share."""
    workplace("kgram", ["main_squad"])
    ended = outcome("train_ppo", [*flags("train_ppo", "kgram"), "--reward", reward])
    assert ended.code == 0, ended.err
    assert all(0 <= r["reward_mean"] <= 1 for r in loss_lines("kgram"))
    metrics = load_payload("checkpoints/kgram_train_ppo/final.pt")["metrics"]
    assert metrics["reward"] == pytest.approx(metrics[reward] / 100)
    lineage = load_payload("checkpoints/kgram_train_ppo/final.pt")["lineage"]
    assert [a["stage"] for a in lineage] == ["main_squad"]


def test_reward_functions_are_called_with_the_prediction_and_all_about_it():
    seen = []

    def function(*about):
        seen.append(about)
        return len(seen)

    asked = [QAExample("a context", "a question?", ("gold", "other")), QAExample("c", "q", ("g",))]
    assert function_rewards(function, ["x", "y"], asked)["reward"].tolist() == [1.0, 2.0]
    assert seen == [("x", ("gold", "other"), "a context", "a question?"), ("y", ("g",), "c", "q")]
    assert reward_function("f1")("a red fox", ("the red dog",), "", "") == pytest.approx(0.5)
    assert reward_function("em")("The Fox!", ("dog", "fox"), "", "") == 1.0
    assert reward_function("math:hypot") is math.hypot


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("f2", "--reward f2 given, expected model, f1, em, noise or module:function"),
        ("nosuchmodule:f", "No module named 'nosuchmodule'"),
        ("math:nosuch", "has no attribute 'nosuch'"),
        ("math:pi", "expected a function, found a float"),
        (":f", "expected an importable function"),
        (".x:f", "expected an importable function"),
        ("broken_module:f", "expected an importable function"),
    ],
)
def test_what_is_no_reward_is_refused(name, line, tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="--reward") as error:
        reward_function(name)
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("none", "None"), ("text", "'a'"), ("nan", "float('nan')"), ("inf", "float('inf')"),
     ("fails", "1 / 0")],
)
def test_a_reward_that_is_no_finite_number_ends_in_one_line(name, value, workplace, monkeypatch):
    """Each in a module of its own name: Python imports a name once a process."""
    folder = workplace("kgram", ["main_squad"])
    body = f"def f(prediction, golds, context, question):\n    return {value}\n"
    module = f"bad_reward_{name}"
    (folder / f"{module}.py").write_text(body)
    monkeypatch.syspath_prepend(folder)
    ended = outcome("train_ppo", [*flags("train_ppo", "kgram"), "--reward", f"{module}:f"])
    assert ended.code == 2
    assert ended.err[-1].startswith("train_ppo: the reward function")
    assert "expected a finite number" in ended.err[-1]


def test_a_reward_that_fails_on_one_rank_alone_is_said_by_that_rank(monkeypatch, capsys):
    """Rank 0 scores other answers, and would say no more than that another rank ended."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("src.rl.rollout.gather", lambda value: [value, value])

    def fails(trees):
        raise UserError("the reward function gave None, expected a finite number")

    models = models_of("kgram", critic=False)
    with pytest.raises(SystemExit) as stop, ends_in_one_line("train_ppo"):
        rollout_of(models, [([1, 2], [[3], [4]])], fails, 0.0, 0, settings(algorithm="rloo"))
    assert stop.value.code == 2
    said = "train_ppo: rank 1: the reward function gave None, expected a finite number\n"
    assert capsys.readouterr().err == said


def test_past_the_kl_limit_the_run_stops_and_says_so(workplace):
    """The step that went too far is logged, what was saved stays, and no final.pt is made."""
    workplace("kgram", ["main_squad"])
    argv = [*flags("train_ppo", "kgram"), "--reward", "f1", "--lr", "1", "--kl_coef", "0",
            "--kl_limit", "0.5", "--save_every", "1"]
    ended = outcome("train_ppo", argv)
    assert ended.code == 1
    line = ended.err[-1]
    assert line.startswith("train_ppo: step 2: the KL to the reference is ")
    assert "above --kl_limit 0.5" in line and "raise --kl_coef or lower --lr" in line
    assert "last.pt keeps step 2" in line
    assert loss_lines("kgram")[-1]["kl_nats"] > 0.5
    assert load_payload("checkpoints/kgram_train_ppo/last.pt")["step"] == 2
    with pytest.raises(UserError):
        load_payload("checkpoints/kgram_train_ppo/final.pt")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--algorithm", "reinforce", "--ppo_epochs", "2"], "--ppo_epochs 2 given with"),
        (["--algorithm", "reinforce", "--minibatches", "4"], "--minibatches 4 given with"),
        (["--algorithm", "rloo", "--num_samples", "1"], "--num_samples 1 given with rloo"),
        (["--algorithm", "grpo", "--num_samples", "1"], "--num_samples 1 given with grpo"),
        (["--algorithm", "a2c"], "'a2c'"),
        (["--algorithm", "rloo", "--lam", "0.9"], "--lam given with --algorithm rloo"),
        (["--algorithm", "reinforce", "--clip_range", "0.1"], "--clip_range given with reinforce"),
        (["--kl_horizon", "50"], "--kl_horizon given without --kl_target"),
        (["--temperature", "0"], "expected a number of at least 0.001"),
        (["--gamma", "1.5"], "--gamma"),
        (["--lam", "-0.1"], "--lam"),
        (["--kl_coef", "-1"], "--kl_coef"),
        (["--clip_range", "0"], "--clip_range"),
        (["--clip_range", "0.1", "--clip_low", "0.2"], "--clip_range given beside"),
        (["--clip_high", "0.3"], "--clip both given with a range of 0.2 below and 0.3 above"),
        (["--clip", "higher"], "expected a --clip_high above --clip_low"),
        (["--clip_low", "1.5", "--clip_high", "1.5"], "expected below 1"),
        (["--algorithm", "gspo", "--clip", "both"], "--clip both given with a range of"),
        (["--algorithm", "gspo", "--clip", "weight"], "--ratio sequence given with --clip weight"),
        (["--algorithm", "reinforce", "--ratio", "sequence"], "--ratio sequence given with"),
        (["--algorithm", "cispo", "--clip_low", "0.2"], "--clip_low given with --clip weight"),
        (["--algorithm", "dapo", "--kl_in", "reward"], "--kl_in given with a coefficient of 0"),
        (["--algorithm", "dapo", "--kl_estimator", "k1"], "--kl_estimator given with a"),
        (["--algorithm", "dapo", "--kl_target", "3"], "--kl_target given with a coefficient of 0"),
        (["--algorithm", "raft", "--mean", "tokens"], "--mean given with raft"),
        (["--algorithm", "online_dpo", "--clip_range", "0.1"], "--clip_range given with online"),
        (["--algorithm", "raft", "--kl_coef", "0.1"], "--kl_coef given with raft"),
        (["--algorithm", "raft", "--kl_target", "1"], "--kl_target given with raft"),
        (["--algorithm", "raft", "--num_samples", "1"], "--num_samples 1 given with raft"),
        (["--algorithm", "raft", "--beta", "0.1"], "--beta given with raft"),
        (["--beta", "0.1"], "--beta given with ppo"),
        (["--advantage", "group", "--lam", "0.9"], "--lam given with --algorithm ppo"),
        (["--max_new_tokens", "0"], "--max_new_tokens"),
    ],
)
def test_meaningless_flags_are_refused(more, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert line in refusal("train_ppo", more)
    assert not list(tmp_path.iterdir())
