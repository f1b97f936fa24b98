"""On a CUDA GPU as on the CPU: losses, gradients, answers, resuming, and the chain of all scripts.

Skipped where there is no GPU. PICO_TEST_DEVICE=cpu tries the tests themselves on a CPU.

In float32, without TF32, devices differ by the order of sums only. What is compared may differ by
1e-4 of its largest entry, and by 1e-5.
"""

import argparse
import copy
import json
import os
import signal
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from conftest import SHAPES, outcome
from test_logprobs import CONFIGS, EOS, TREES, perturbed

from main_squad import sft_backward
from src.inference.logprobs import build_tree_batch, completion_logps
from src.inference.sampling import Sampling, generate, generate_all
from src.model.heads import Critic, RewardModel
from src.model.prefix_sharing.packing import pack
from src.playground import answers as playground
from src.playground.checkpoints import Policy
from src.rl.algorithm_table import ALGORITHMS
from src.rl.models import Models
from src.rl.rewards import Scores, model_rewards
from src.rl.rollout import Prompts, Settings, sample_rollout
from src.rl.update import update_policy
from src.training import reporting
from src.training.device import choose_device
from src.utils.constants import MODEL_TYPES, STAGES
from src.utils.payload import load_payload
from tests.faults.runs import assert_same_runs
from train_dpo import dpo_backward
from train_reward_model import reward_backward

CPU = torch.device("cpu")
DEVICE = os.environ.get("PICO_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA GPU"),
]
# [chosen, rejected] below every question; a context of none, answers of none.
PAIRS = [
    ([3, EOS, 0, 7, 7, 1], [([5, 2, 9], [[4, 4], [1, 2, 3, 4]]), ([6], [[8], []])]),
    ([], [([1, 1, 2, 3], [[9, 9, 9], [9]])]),
    ([11, 4, 4], [([12], [[2], [13]]), ([14, 15], [[16], [17, 18]])]),
]
PROMPTS = [(context, [question for question, _ in questions]) for context, questions in PAIRS]
ARGS = Namespace(
    micro_batch_size=2, micro_batch_tokens=10**9, lm_weight=0.3, beta=0.1, label_smoothing=0.0,
    loss_type="sigmoid", nll_weight=0.5,
)


@pytest.fixture(autouse=True)
def device():
    """The device in float32, and all that `choose_device` sets as it was before."""
    kind = torch.device(DEVICE).type
    before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    tf32 = torch.backends.cudnn.allow_tf32
    yield choose_device(argparse.Namespace(device=DEVICE, dtype="float32"))
    torch.set_autocast_enabled(kind, before[0])
    torch.set_autocast_dtype(kind, before[1])
    torch.backends.cudnn.allow_tf32 = tf32


@pytest.fixture(params=CONFIGS)
def models(request, device):
    """The same model on the CPU and on the device."""
    model = copy.deepcopy(perturbed(request.param))
    return model, copy.deepcopy(model).to(device)


def assert_close(found, expected, where=""):
    """Tensors, numbers, or dicts of them."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            assert_close(found[name], expected[name], f"{where} {name}")
        return
    found, expected = (torch.as_tensor(x).detach().cpu().double() for x in (found, expected))
    assert found.shape == expected.shape, where
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    apart = float((found - expected).abs().max()) if expected.numel() else 0.0
    assert apart <= 1e-5 + 1e-4 * largest, f"{where}: apart by {apart}, of {largest}"


def gradients(module):
    """Of every parameter, 0 where none came."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in module.named_parameters()
    }


def assert_same_gradients(found, expected):
    """And some are not 0."""
    assert any(gradient.any() for gradient in gradients(expected).values())
    assert_close(gradients(found), gradients(expected))


# --- one step ---


@pytest.mark.parametrize("lm_weight", [0.0, 0.3])
def test_sft(models, lm_weight):
    args = Namespace(**vars(ARGS) | {"lm_weight": lm_weight})
    chosen = [(c, [(q, answers[:1]) for q, answers in qs]) for c, qs in PAIRS]
    expected, found = (sft_backward(model, chosen, EOS, args) for model in models)
    assert_close(found, expected)
    assert_same_gradients(models[1], models[0])


def test_dpo(models):
    reference = torch.linspace(-9, -2, 10).view(-1, 2)
    expected, found = (dpo_backward(model, PAIRS, reference, EOS, ARGS) for model in models)
    assert_close(found, expected)
    assert_same_gradients(models[1], models[0])


@pytest.mark.parametrize("loss_type", ["kto", "ipo", "orpo", "simpo"])
def test_other_preference_losses(device, loss_type):
    """Their pairs and what the reference says of them come from the CPU."""
    mine = copy.deepcopy(perturbed("kgram"))
    other = copy.deepcopy(mine).to(device)
    args = Namespace(**vars(ARGS) | {"loss_type": loss_type, "gamma": 1.0})
    trees, reference = PAIRS, torch.linspace(-9, -2, 10).view(-1, 2)
    if loss_type == "kto":
        trees = [(c, [(q, [*answers, [5]]) for q, answers in qs]) for c, qs in PAIRS]
        reference = torch.linspace(-9, -2, 15).view(-1, 3)
    if loss_type in ("orpo", "simpo"):
        reference = None
    expected, found = (
        dpo_backward(model, trees, reference, EOS, args) for model in (mine, other)
    )
    assert_close(found, expected)
    assert_same_gradients(other, mine)


def test_reward_model(models, device):
    torch.manual_seed(0)
    mine = RewardModel(models[0])
    other = copy.deepcopy(mine).to(device)
    expected, found = (reward_backward(reward, PAIRS, EOS, ARGS) for reward in (mine, other))
    assert_close(found, expected)
    assert_same_gradients(other, mine)
    assert_close(model_rewards(other, TREES, EOS), model_rewards(mine, TREES, EOS))


def settings(algorithm, device):
    return Settings(
        algorithm=ALGORITHMS[algorithm]._replace(length=6), eos_id=EOS, num_samples=2,
        max_new_tokens=6, temperature=0.9, gamma=1.0, lam=0.95, value_clip_range=0.2,
        value_coef=0.1, beta=0.1, missing_eos_penalty=1.0, epochs=2, minibatches=2,
        micro_contexts=2, seed=0, device=device,
    )


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_policy_gradient(models, device, algorithm):
    """A rollout with the same tokens, and the gradients of two epochs of minibatches, summed."""
    mine = Models(models[0], copy.deepcopy(models[0]).requires_grad_(False), None)
    with torch.no_grad():
        for parameter in mine.reference.parameters():
            parameter.mul_(0.9)
    if algorithm == "ppo":
        mine = mine._replace(critic=Critic(copy.deepcopy(models[0])))
        torch.nn.init.normal_(mine.critic.head.weight, std=0.3)
    other = Models(*(model and copy.deepcopy(model).to(device) for model in mine))

    def reward_of(trees, asked):
        answers = [a for _, questions in trees for _, texts in questions for a in texts]
        return Scores(torch.tensor([2.5 - len(a) + 0.01 * sum(a) for a in answers]), {})

    def step(models, place):
        s = settings(algorithm, place)
        prompts = Prompts(PROMPTS, [], [False] * sum(len(questions) for _, questions in PROMPTS))
        rollout = sample_rollout(models, prompts, reward_of, 0.05, 3, s)
        return rollout, update_policy(models, rollout, 3, s, lambda loss: {})

    (expected, metrics), (found, found_metrics) = step(mine, CPU), step(other, device)
    assert found.trees == expected.trees and expected.mask.sum() > 10
    for name, value in expected._asdict().items():
        if isinstance(value, torch.Tensor):
            assert_close(getattr(found, name), value, name)
    assert_close(found_metrics, metrics)
    assert_same_gradients(other.policy, mine.policy)
    if mine.critic is not None:
        assert_same_gradients(other.critic, mine.critic)


# --- answers ---


@pytest.mark.parametrize("options", [{}, {"num_samples": 3, "sampling": Sampling(0.8, 9, 0.95)}])
def test_answers(models, options):
    """Greedy and sampled: the same tokens, and their log-probabilities."""
    expected = generate(models[0], PROMPTS, EOS, max_new_tokens=40, seed=4, **options)
    found = generate(models[1], PROMPTS, EOS, max_new_tokens=40, seed=4, **options)
    assert torch.equal(found.tokens.cpu(), expected.tokens)
    assert torch.equal(found.lengths.cpu(), expected.lengths)
    assert_close(found.logp, expected.logp)
    all_of_them = generate_all(models[1], PROMPTS, EOS, max_new_tokens=40, seed=4, **options)
    assert all_of_them == expected.texts()


def test_what_the_playground_shows_of_answers(models):
    """The second answer was cut off, so its EOS is not shown."""
    tree_batch = build_tree_batch([([3, 1], [([5, 2], [[4, 4], [7]])])], EOS)
    found = []
    for model in models:
        policy = Policy("p", model, Namespace(decode=str, eos_id=EOS), parent=model)
        with torch.inference_mode():
            rows = playground._tokens(policy, tree_batch, [[4, 4], [7]], [True, False])
        tokens = [token for row, _ in rows for token in row]
        assert len(tokens) == 4
        found.append({
            "logp": [logp for _, logp in rows], "probability": [t.probability for t in tokens],
            "kl": [t.kl_nats for t in tokens],
        })
    for name in found[0]:
        assert_close(found[1][name], found[0][name], name)


@pytest.mark.parametrize("keep_state", [False, True])
def test_trees_that_shard_has_moved(models, device, keep_state):
    """FSDP moves all that a backbone's methods are given to the GPU, also what is laid out on the
    CPU. One process can only imitate that."""
    levels, found = build_tree_batch(TREES, EOS).levels(), []
    for model, place in zip(models, (CPU, device), strict=True):
        packed = pack(levels, "last level", in_rows=True, device=place)
        on_cpu = ("level", "place", "wanted_place")
        moved = packed._replace(**{name: getattr(packed, name).to(place) for name in on_cpu})
        moved_levels = [level.to(place) for level in levels]
        found.append(model.read_trees(moved_levels, moved, keep_state)[0])
    assert_close(found[1], found[0])


def test_scores_of_long_trees(models):
    """Contexts of other lengths than a multiple of 8, and more than a block of the kernels."""
    rng = torch.Generator().manual_seed(0)

    def ids(count):
        return torch.randint(0, EOS, (count,), generator=rng).tolist()

    trees = [(ids(n), [(ids(9), [ids(3), ids(5)]), (ids(4), [ids(70)])]) for n in (1, 131, 203)]
    expected = completion_logps(models[0], trees, EOS)
    assert_close(completion_logps(models[1], trees, EOS), expected)


# --- runs ---

OF_STAGE = {
    "main_squad": ["--dataset", "pico", "--num_examples", "60"],
    "train_ppo": ["--max_new_tokens", "6", "--minibatches", "2", "--ppo_epochs", "2"],
}


def argv_of(stage, model_type, *more, dtype="auto"):
    small = ["--batch_size", "2", "--max_steps", "6", "--eval_limit", "6", "--warmup", "0.25"]
    shape = SHAPES[model_type] if stage == STAGES[0] else []
    own = OF_STAGE.get(stage, [])
    where = ["--model_type", model_type, "--device", DEVICE, "--dtype", dtype]
    return [*where, *small, "--lr", "0.01", *own, *shape, *more]


def run(script, argv):
    """What a script returned; it must end well."""
    ended = outcome(script, argv)
    assert ended.code == 0, ended.err[-5:]
    return ended


def enter(monkeypatch, folder):
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", ["main_squad", "train_ppo"])
def test_resumed_equals_in_one_go(stage, dtype, model_type, tmp_path, monkeypatch):
    """Stopped by a signal in the third of six steps, and continued: equal to the last bit."""
    place = Path(f"checkpoints/{model_type}_{stage}")
    folders = [tmp_path / "whole", tmp_path / "parts"]
    argv = argv_of(stage, model_type, "--eval_every", "3", dtype=dtype)
    parents = ["main_squad"] if stage == "train_ppo" else []
    more = ["--reward", "f1"] if stage == "train_ppo" else []
    log_step = reporting.log_step

    def stopping(run, step, *args, **shown):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        log_step(run, step, *args, **shown)

    for folder in folders:
        enter(monkeypatch, folder)
        for parent in parents:
            run(parent, argv_of(parent, model_type, dtype=dtype))
        if folder is folders[0]:
            run(stage, [*argv, *more])
            continue
        with monkeypatch.context() as patch:
            patch.setattr(reporting, "log_step", stopping)
            assert outcome(stage, [*argv, *more]).code == 143
        assert load_payload(place / "last.pt")["step"] == 3
        run(stage, ["--model_type", model_type, "--resume"])
    assert_same_runs(*(folder / place for folder in folders))


@pytest.mark.parametrize("pointer", [True, False])
def test_the_chain_of_all_scripts(model_type, pointer, tmp_path, monkeypatch):
    """Six scripts, in the precision that they choose; later ones also read files on the CPU."""
    enter(monkeypatch, tmp_path / "chain")
    for stage in STAGES:
        plain = ["--no_pointer"] if stage == STAGES[0] and not pointer else []
        run(stage, argv_of(stage, model_type, *plain))
        log = Path(f"checkpoints/{model_type}_{stage}/metrics.jsonl").read_text().splitlines()
        losses = [record["loss"] for record in map(json.loads, log) if "loss" in record]
        assert len(losses) == 6 and all(abs(loss) < 100 for loss in losses)
    table = run(
        "eval_dpo",
        ["--model_type", model_type, "--device", DEVICE, "--limit", "6", "--best_of", "1,2"],
    ).result
    assert len(table["policies"]) >= 2
    for metrics in table["policies"].values():
        assert 0 <= metrics["em"]["value"] <= 100
    checkpoint = f"checkpoints/{model_type}_train_ppo/final.pt"
    ask = [
        "--model_type", model_type, "--checkpoint", checkpoint, "--json", "--context",
        "The Corn Market was built in 1650.", "--question", "When was the Corn Market built?",
    ]
    answers = [
        run("generate_from_checkpoint", [*ask, "--device", name, "--dtype", "float32"]).result
        for name in (DEVICE, "cpu")
    ]
    texts = [found["results"][0]["answers"] for found in answers]
    assert texts[0] == texts[1]


def test_model_types_are_all_here():
    """The fixtures above go through every architecture, with and without a pointer."""
    kinds = {(kind, config.get("pointer", False)) for kind, config in CONFIGS.values()}
    assert kinds == {(kind, pointer) for kind in MODEL_TYPES for pointer in (True, False)}
