"""SFT, DPO and the reward model: gradients over micro-batches, step 0, the frozen reference."""

import argparse
import json
import math
import shutil

import pytest
import torch
from conftest import call, flags

import main_squad
import train_dpo
import train_reward_model
from src.data.encoding import encode_paragraphs
from src.data.negative_controls import apply_control
from src.data.squad_dataset import context_groups
from src.data.squad_loader import load_squad
from src.data.squad_preferences import Pair
from src.data.tokenizers.tokenizer import load_tokenizer
from src.data.windows import Tree
from src.model import heads
from src.model.heads import RewardModel
from src.model.model import build_model
from src.preference import pairs as pairs_module
from src.preference import sampled
from src.preference.loss_table import PREFERENCE_LOSSES, fill_loss_flags
from src.preference.pair_batches import PairTrees
from src.preference.pair_losses import answer_tokens, with_mismatched, without_mismatched
from src.preference.pairs import (
    PairSet,
    chosen_pairs,
    held_out_pairs,
    normalise_on,
    policy_scores,
    raw_scores,
    reference_logps,
    training_pairs,
    trees_of_steps,
)
from src.rl.rewards import model_rewards
from src.training.loop import prepare
from src.training.optimizer import make_optimizer, optimizer_step
from src.training.run_data import some_gold_trees
from src.utils.checkpoint_utils import load_checkpoint
from src.utils.constants import CORRUPTIONS, MODEL_TYPES
from src.utils.payload import file_hash, load_payload, save_payload

EOS = 0
CPU = torch.device("cpu")
SHAPE = {"vocab_size": 23, "n_embd": 16, "n_layer": 1}


def model_of(name, seed=0):
    torch.manual_seed(seed)
    extra = {"n_head": 2} if name == "transformer" else {}
    return build_model(name, {**SHAPE, **extra})


def trees_of(answers, contexts=8, seed=0) -> list[Tree]:
    """Ragged trees of ids 1 to 22: 1 to 3 questions a context, so many answers a question."""
    draw = torch.Generator().manual_seed(seed)

    def ids(low, high):
        length = int(torch.randint(low, high + 1, (), generator=draw))
        return torch.randint(1, 23, (length,), generator=draw).tolist()

    def questions():
        number = int(torch.randint(1, 4, (), generator=draw))
        return [(ids(2, 5), [ids(1, 6) for _ in range(answers)]) for _ in range(number)]

    return [(ids(0, 9), questions()) for _ in range(contexts)]


def flags_of(**values):
    defaults = {
        "micro_batch_size": None, "micro_batch_tokens": 10**9, "lm_weight": 0.3, "beta": 0.1,
        "label_smoothing": 0.0, "loss_type": "sigmoid", "nll_weight": 0.0, "gamma": None,
    }
    return argparse.Namespace(**{**defaults, **values})


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


BACKWARD = {
    "sft": (1, lambda model, trees, args: main_squad.sft_backward(model, trees, EOS, args)),
    "dpo": (2, lambda model, trees, args: train_dpo.dpo_backward(
        model, trees, torch.linspace(-9, -2, 2 * pairs_in(trees)).view(-1, 2), EOS, args)),
    "kto": (3, lambda model, trees, args: train_dpo.dpo_backward(
        model, trees, torch.linspace(-40, -20, 3 * pairs_in(trees)).view(-1, 3), EOS,
        argparse.Namespace(**{**vars(args), "loss_type": "kto"}))),
    "reward": (2, lambda model, trees, args: train_reward_model.reward_backward(
        model, trees, EOS, args)),
}


def pairs_in(trees):
    return sum(len(questions) for _, questions in trees)


@pytest.mark.parametrize("stage", BACKWARD)
@pytest.mark.parametrize("name", MODEL_TYPES)
def test_gradients_do_not_depend_on_the_micro_batch(name, stage):
    """8 contexts at once, 4 + 4, 3 + 3 + 2 and one at a time, with ragged numbers of tokens; and as
    many as have 60 tokens, or 30."""
    answers, backward = BACKWARD[stage]
    trees = trees_of(answers)
    found = []
    for size, tokens in ((None, 10**9), (8, 60), (4, 10**9), (3, 30), (1, 10**9)):
        model = model_of(name)
        if stage == "reward":
            model = RewardModel(model)
        args = flags_of(micro_batch_size=size, micro_batch_tokens=tokens, nll_weight=0.5)
        figures = backward(model, trees, args)
        found.append((gradients(model), figures))
    whole, whole_figures = found[0]
    assert max(g.abs().max() for g in whole.values()) > 1e-4
    for part, figures in found[1:]:
        assert part.keys() == whole.keys()
        for key, gradient in whole.items():
            assert torch.allclose(part[key], gradient, rtol=1e-4, atol=1e-6), key
        assert figures == pytest.approx(whole_figures, rel=1e-5, abs=1e-6)


def test_sft_loss_counts_each_token_once_by_hand():
    """A model without layers that says every token is equally probable: ln V a token."""
    model = model_of("kgram")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    figures = main_squad.sft_backward(model, trees_of(1), EOS, flags_of())
    uniform = math.log(23)
    assert figures["answer_loss_nats"] == pytest.approx(uniform, abs=1e-5)
    assert figures["text_loss_nats"] == pytest.approx(uniform, abs=1e-5)
    assert figures["loss"] == pytest.approx(1.3 * uniform, abs=1e-5)


# --- control runs ---


def test_a_control_run_empties_contexts_or_deals_answers_out_anew():
    trees = trees_of(1)
    assert apply_control(trees, "none", "0/0", 512) is trees
    bare = apply_control(trees, "no_context", "0/0", 512)
    assert [c for c, _ in bare] == [[]] * 8 and [q for _, q in bare] == [q for _, q in trees]
    others = [[number] for number in range(100, 200)]
    dealt = apply_control(trees, "shuffled_answers", "0/0", 512, others)
    assert dealt == apply_control(trees, "shuffled_answers", "0/0", 512, others)
    assert dealt != apply_control(trees, "shuffled_answers", "0/1", 512, others)

    def answers(of):
        return [a for _, questions in of for _, several in questions for a in several]

    def without(of):
        return [(c, [q for q, _ in questions]) for c, questions in of]

    assert without(dealt) == without(trees)
    assert len(answers(dealt)) == len(answers(trees)) and all(a in others for a in answers(dealt))
    assert len(set(map(tuple, answers(dealt)))) > len(answers(trees)) / 2


# --- DPO ---


def nats_of(model, trees):
    pairs = PairTrees(trees, [], 0)
    return policy_scores(model, pairs.trees, EOS)


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_dpo_starts_at_ln_2_with_rewards_0_and_a_gradient(name):
    model, trees = model_of(name), trees_of(2)
    reference = nats_of(model, trees).clone()
    figures = train_dpo.dpo_backward(model, trees, reference, EOS, flags_of())
    assert figures["loss"] == pytest.approx(0.693147, abs=1e-5)
    for name in ("chosen_reward", "rejected_reward", "reward_margin"):
        assert figures[name] == pytest.approx(0, abs=1e-5)
    assert figures["chosen_logp_nats"] == pytest.approx(float(reference[:, 0].mean()), rel=1e-5)
    assert figures["rejected_logp_nats"] == pytest.approx(float(reference[:, 1].mean()), rel=1e-5)
    assert sum(g.abs().sum() for g in gradients(model).values()) > 1e-2


def train_on_pairs(name, steps, **values):
    """Chosen and rejected log-probs (pairs, 2) before and after some DPO steps on a toy."""
    model, trees = model_of(name), trees_of(2, contexts=3)
    reference = nats_of(model, trees).clone()
    optimizer = make_optimizer({"model": model})
    for _ in range(steps):
        figures = train_dpo.dpo_backward(model, trees, reference, EOS, flags_of(**values))
        optimizer_step(optimizer, 3e-3, 1.0, figures["loss"], False)
    return reference, nats_of(model, trees), figures


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_dpo_puts_the_chosen_above_the_rejected(name):
    before, after, figures = train_on_pairs(name, 30)
    margins = (after - before)[:, 0] - (after - before)[:, 1]
    assert (margins > 1).all()
    assert figures["loss"] < 0.6 and figures["reward_accuracy"] == 100


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_with_an_nll_term_the_chosen_log_prob_rises(name):
    before, after, _ = train_on_pairs(name, 30, nll_weight=1.0)
    assert (after[:, 0] > before[:, 0]).all()


@pytest.mark.parametrize(
    "values",
    [{}, {"label_smoothing": 0.1}, {"label_smoothing": 0.4}, {"beta": 0.3}, {"loss_type": "ipo"}],
    ids=str,
)
def test_the_dpo_loss_is_the_one_that_the_flags_name(values):
    """By hand from what policy and reference say of each pair."""
    model, trees, args = model_of("kgram"), trees_of(2), flags_of(**values)
    reference = torch.linspace(-40, -2, 2 * pairs_in(trees)).view(-1, 2)
    gain = nats_of(model, trees).clone() - reference
    losses = []
    for h in (gain[:, 0] - gain[:, 1]).tolist():
        wrong = math.log1p(math.exp(args.beta * h))  # -logsigmoid(-beta h)
        right = math.log1p(math.exp(-args.beta * h))
        smoothed = (1 - args.label_smoothing) * right + args.label_smoothing * wrong
        losses.append((h - 5) ** 2 if args.loss_type == "ipo" else smoothed)  # 1 / (2 * 0.1) = 5
    figures = train_dpo.dpo_backward(model, trees, reference, EOS, args)
    assert figures["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert figures["total_loss"] == pytest.approx(figures["loss"])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def log_odds(mean):
    return mean - math.log1p(-math.exp(mean))


@pytest.mark.parametrize("loss_type", PREFERENCE_LOSSES)
@pytest.mark.parametrize("micro", [None, 1])
def test_each_loss_is_its_formula_of_sums_or_means(loss_type, micro):
    """Pair by pair, from what policy and reference say of them; parts of a batch add up."""
    row = PREFERENCE_LOSSES[loss_type]
    args = flags_of(
        loss_type=loss_type, micro_batch_size=micro, beta=None, gamma=None, nll_weight=None
    )
    assert fill_loss_flags(args) is row and fill_loss_flags(args) is row
    model, trees = model_of("kgram"), trees_of(2)
    if row.mismatched:
        trees = with_mismatched(PairTrees(trees, [], 0)).trees
    width = 3 if row.mismatched else 2
    reference = torch.linspace(-40, -2, width * pairs_in(trees)).view(-1, width)
    policy = nats_of(model, trees).clone()
    tokens = answer_tokens(trees)
    kl = float((policy - reference)[:, 2].mean()) if row.mismatched else 0.0
    losses = []
    for (chosen, rejected, *_), said, counts in zip(
        policy.tolist(), reference.tolist(), tokens.tolist(), strict=True
    ):
        h = chosen - said[0] - rejected + said[1]
        a, b = chosen / counts[0], rejected / counts[1]
        z = max(kl, 0.0)
        losses.append({
            "sigmoid": -math.log(sigmoid(h)),
            "nll": -math.log(sigmoid(h)),
            "ipo": (h - 5) ** 2,
            "hinge": max(0.0, 1 - h),
            "kto": (2 - sigmoid(0.1 * (chosen - said[0] - z))
                    - sigmoid(0.1 * (z - rejected + said[1]))) / 2,
            "orpo": -math.log(sigmoid(log_odds(a) - log_odds(b))),
            "simpo": -math.log(sigmoid(2 * (a - b) - 1)),
        }[loss_type])
    mean = sum(losses) / len(losses)
    nll = -float(policy[:, 0].sum() / tokens[:, 0].sum())
    rows = reference if row.has_reference else None
    metrics = train_dpo.dpo_backward(model, trees, rows, EOS, args)
    assert metrics["loss"] == pytest.approx(mean, rel=1e-4)
    assert metrics["chosen_nll_nats"] == pytest.approx(nll, rel=1e-4)
    pairs_weight = {"orpo": 0.1, "nll": 0.0}.get(loss_type, 1.0)
    with_nll = loss_type in ("orpo", "nll")
    total = pairs_weight * mean + with_nll * nll
    assert metrics["total_loss"] == pytest.approx(total, rel=1e-4)
    share = with_nll * nll / total
    assert metrics["nll_fraction"] == pytest.approx(share, rel=1e-4)
    assert ("mismatched_kl_nats" in metrics) == row.mismatched
    if row.mismatched:
        assert kl > 1 and metrics["mismatched_kl_nats"] == pytest.approx(kl, rel=1e-4)


def test_the_nll_term_alone_has_sft_s_gradient():
    """The rejected answers have no part in it."""
    found = []
    for rejected in ([1, 2, 3], [9]):
        model, trees = model_of("lstm"), [([1, 2], [([3, 4], [[5, 6], rejected])])]
        args = flags_of(loss_type="nll", nll_weight=1.0)
        train_dpo.dpo_backward(model, trees, torch.zeros(1, 2), EOS, args)
        found.append(gradients(model))
    alone = model_of("lstm")
    trees = [([1, 2], [([3, 4], [[5, 6]])])]
    main_squad.sft_backward(alone, trees, EOS, flags_of(lm_weight=0.0))
    for name, gradient in gradients(alone).items():
        assert all(torch.allclose(each[name], gradient, atol=1e-6) for each in found)


def test_mismatched_answers_are_the_next_question_s_and_fit_their_windows():
    trees = [([1], [([2], [[3, 4], [5]]), ([6], [[7, 8, 9], [10]])]), ([], [([11], [[12], [13]])])]
    found = with_mismatched(PairTrees(trees, [[0, 1], [2]], 0)).trees
    assert found == [
        ([1], [([2], [[3, 4], [5], [7, 8]]), ([6], [[7, 8, 9], [10], [12]])]),
        ([], [([11], [[12], [13], [3]])]),
    ]
    pairs, others = without_mismatched(found)
    assert pairs == trees and [a for _, qs in others for _, a in qs] == [[[7, 8]], [[12]], [[3]]]


def test_a_mismatched_answer_is_never_of_the_same_prompt():
    """Two pairs of one question, in one tree or in the first and the last: each takes the answer
    of the other question. The same question below another context is another prompt."""
    one = [([1], [([2], [[3], [4], [5], [6]])]), ([7], [([2], [[9], [10]])])]
    apart = [([1], [([2], [[3], [4]])]), ([7], [([2], [[9], [10]])]), ([1], [([2], [[5], [6]])])]
    for trees, expected in ((one, [[9], [9], [3]]), (apart, [[9], [5], [9]])):
        found = with_mismatched(PairTrees(trees, [], 0)).trees
        assert [answers[2] for _, qs in found for _, answers in qs] == expected
    alone = with_mismatched(PairTrees(one[:1], [], 0)).trees  # there is no other prompt
    assert alone == [([1], [([2], [[3], [4], [3]]), ([2], [[5], [6], [3]])])]


@pytest.mark.parametrize("loss_type", ["hinge", "kto", "orpo", "simpo", "nll"])
def test_only_losses_with_a_reference_read_one(loss_type, workplace, capsys):
    workplace("kgram", ["main_squad"])
    result = call("train_dpo", [*flags("train_dpo", "kgram"), "--loss_type", loss_type])
    assert "preference_accuracy" in result
    said = capsys.readouterr().err
    assert ("reference log-probs of" in said) == PREFERENCE_LOSSES[loss_type].has_reference
    stored = load_payload("checkpoints/kgram_train_dpo/final.pt")["flags"]
    row = PREFERENCE_LOSSES[loss_type]
    assert (stored["beta"], stored["gamma"], stored["nll_weight"]) == row[1:4]


def test_fewer_pairs_and_wrong_labels_are_parts_of_one_choice(pico):
    _, train, _, _ = pico
    pairs = train.pairs
    assert chosen_pairs(pairs, None, 0.0, 3) == pairs
    few, more = (chosen_pairs(pairs, n, 0.0, 3) for n in (10, 20))
    assert len(few) == 10 and len(more) == 20 and set(few) < set(more)
    assert [pairs.index(p) for p in few] == sorted(pairs.index(p) for p in few)
    assert chosen_pairs(pairs, 10, 0.0, 4) != few and chosen_pairs(pairs, 10**6, 0.0, 3) == pairs

    def swapped(share, seed=3):
        found = chosen_pairs(pairs, None, share, seed)
        where = {i for i, (a, b) in enumerate(zip(pairs, found, strict=True)) if a != b}
        for i in where:
            assert (found[i].chosen, found[i].rejected) == (pairs[i].rejected, pairs[i].chosen)
        return where

    assert swapped(0.1) < swapped(0.5) < swapped(1.0) == set(range(len(pairs)))
    assert len(swapped(0.5)) / len(pairs) == pytest.approx(0.5, abs=0.2)


# --- the frozen reference ---


@pytest.fixture(scope="module")
def pico():
    """(tokenizer, training pairs, held-out pairs, encoded) of 60 embedded questions."""
    tokenizer = load_tokenizer("pico")
    data = load_squad("pico", num_examples=60)
    encoded = encode_paragraphs(data.train, tokenizer)
    train = training_pairs(data.train, encoded, tokenizer, 512, "pico", None, 0)
    few = data.validation[:3]
    unseen = held_out_pairs(few, encode_paragraphs(few, tokenizer), tokenizer, 512, "pico", None)
    return tokenizer, train, unseen, encoded


def small_model(name, vocab_size):
    torch.manual_seed(1)
    return build_model(name, {"vocab_size": vocab_size, "n_embd": 8, "n_layer": 1,
                              **({"n_head": 2} if name == "transformer" else {})})


def test_the_reference_is_computed_once_and_cached_by_weights_and_data(tmp_path, pico):
    tokenizer, train, _, _ = pico
    model = small_model("kgram", tokenizer.vocab_size)
    args = argparse.Namespace(batch_size=2, seed=0)
    needed = trees_of_steps(train, args, 3)
    numbers = [n for row in needed.index for n in row]
    assert 0 < len(numbers) < len(train.pairs)

    def rows(of=needed):
        return reference_logps(model, train, of, tokenizer.eos_id, str(tmp_path))

    def files():
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")}

    first = rows()
    # Every pair that is needed is filled with its own log-probs, every other one is NaN.
    assert torch.isfinite(first[numbers]).all()
    others = sorted(set(range(len(train.pairs))) - set(numbers))
    assert torch.isnan(first[others]).all() and len(others) + len(numbers) == len(first)
    scores = policy_scores(model, train.trees.trees, tokenizer.eos_id)
    by_number = dict(zip([n for row in train.trees.index for n in row], scores, strict=True))
    for n in numbers:
        assert torch.allclose(first[n], by_number[n], atol=1e-4)
    made = files()
    assert len(made) == 1
    assert torch.equal(rows().nan_to_num(9), first.nan_to_num(9)) and files() == made

    # Other pairs, or one changed weight: computed anew.
    rows(trees_of_steps(train, args, 4))
    assert len(files()) == 2
    with torch.no_grad():
        model.embedding.weight[5, 3] += 1e-3
    changed = rows()
    assert len(files()) == 3
    assert not torch.equal(changed[numbers], first[numbers])


def test_the_reference_is_computed_anew_in_another_precision(tmp_path, pico):
    """With autocast on, as --dtype bfloat16 has it, what float32 left in the cache is not taken."""
    tokenizer, train, _, _ = pico
    model = small_model("lstm", tokenizer.vocab_size)
    needed = trees_of_steps(train, argparse.Namespace(batch_size=2, seed=0), 1)

    def rows(folder):
        cache = str(tmp_path / folder)
        found = reference_logps(model, train, needed, tokenizer.eos_id, cache)
        return found.nan_to_num(9)

    full = rows("cache")
    with torch.autocast("cpu", torch.bfloat16):
        half, fresh = rows("cache"), rows("empty")
        assert torch.equal(rows("cache"), half)
    assert torch.equal(half, fresh) and not torch.equal(half, full)
    assert torch.equal(rows("cache"), full)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_sampled_answers_are_drawn_anew_in_another_precision(tmp_path, pico, monkeypatch):
    """Each precision has a cache file of its own."""
    tokenizer, train, _, _ = pico
    monkeypatch.setattr(sampled, "CACHE_DIR", str(tmp_path / "cache"))
    model = small_model("kgram", tokenizer.vocab_size)
    encoded = encode_paragraphs(load_squad("pico", seed=0, num_examples=20).train[:2], tokenizer)

    def files():
        sampled.sampled_answers(model, encoded, tokenizer, 512, max_new_tokens=4, seed=0)
        return len(list((tmp_path / "cache").iterdir()))

    assert files() == files() == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert files() == files() == 2
    assert files() == 2


def test_a_damaged_reference_cache_is_computed_anew(tmp_path, pico):
    tokenizer, train, _, _ = pico
    model = small_model("kgram", tokenizer.vocab_size)
    needed = trees_of_steps(train, argparse.Namespace(batch_size=2, seed=0), 1)

    def rows(cache=tmp_path):
        found = reference_logps(model, train, needed, tokenizer.eos_id, str(cache))
        return found.nan_to_num(9)

    first = rows()
    (path,) = tmp_path.glob("*.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert torch.equal(rows(), first)
    assert len(path.read_bytes()) == len(whole)
    save_payload(path, {"logp": torch.zeros(1, 2)})  # of other pairs
    assert torch.equal(rows(), first)
    # A folder that cannot be made: no cache, and no fault.
    assert torch.equal(rows(path / "below a file"), first)


@pytest.mark.parametrize("stage", ["train_dpo", "train_reward_model"])
def test_training_leaves_its_parent_alone(workplace, model_type, stage, capsys):
    """The reference's weights are those of the file, and nobody writes there."""
    folder = workplace(model_type, ["main_squad"])
    parent = folder / f"checkpoints/{model_type}_main_squad/final.pt"
    before = file_hash(parent)
    call(stage, [*flags(stage, model_type), "--lr", "0.01"])
    assert file_hash(parent) == before
    made = load_checkpoint(folder / f"checkpoints/{model_type}_{stage}/final.pt")
    assert [a["sha256"] for a in made.lineage] == [before]
    trained = getattr(made.model, "backbone", made.model).state_dict()
    first = load_checkpoint(parent).model.state_dict()
    assert trained.keys() == first.keys()
    assert any(not torch.equal(trained[key], first[key]) for key in first)


def test_dpo_logs_ln_2_at_its_first_step(chain_of, model_type):
    chain = chain_of(model_type)
    log = chain.folder / f"checkpoints/{model_type}_train_dpo/metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    first = next(line for line in lines if line["step"] == 1 and "loss" in line)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["chosen_reward"] == pytest.approx(0, abs=1e-4)
    assert first["rejected_reward"] == pytest.approx(0, abs=1e-4)
    assert first["gradient_norm"] > 0
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == [1, 2, 3, 4]
    keys = {
        "reward_margin", "reward_accuracy", "chosen_logp_nats", "rejected_logp_nats",
        "examples_per_second",
    }
    assert keys <= first.keys()
    start = next(line for line in lines if line["step"] == 0 and "eval_chosen_reward" in line)
    assert start["eval_chosen_reward"] == pytest.approx(0, abs=1e-5)
    assert start["eval_reward_accuracy"] == pytest.approx(50)  # all ties


# --- the reward model ---


def test_the_head_is_normal_with_the_papers_deviation_and_no_bias():
    """20,000 draws of width 99: std 1 / sqrt(100) = 0.1 within 3%, mean 0."""
    torch.manual_seed(0)
    drawn = [heads.ScalarHead(99) for _ in range(203)]
    draws = torch.cat([head.linear.weight.detach().flatten() for head in drawn])[:20_000]
    assert len(draws) == 20_000
    assert float(draws.std()) == pytest.approx(0.1, rel=0.03)
    assert abs(float(draws.mean())) < 0.003
    assert drawn[0].linear.bias is None
    # Normal: 68.27% of the draws within one deviation, which a uniform (57.7%) would miss.
    assert float((draws.abs() < 0.1).float().mean()) == pytest.approx(0.6827, abs=0.012)


def test_the_backbone_starts_as_the_sft_model(workplace, model_type):
    """At a learning rate too small to change a float32, all backbone keys are the parent's."""
    folder = workplace(model_type, ["main_squad"])
    call("train_reward_model", [*flags("train_reward_model", model_type), "--lr", "1e-30"])
    found = load_checkpoint(folder / f"checkpoints/{model_type}_train_reward_model/final.pt")
    parent = load_checkpoint(folder / f"checkpoints/{model_type}_main_squad/final.pt")
    backbone = found.model.backbone.state_dict()
    for key, weight in parent.model.state_dict().items():
        assert torch.equal(backbone.pop(key), weight), key
    assert not backbone


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_normalised_scores_have_mean_0_and_deviation_1_in_the_same_order(name, pico, tmp_path):
    tokenizer, _, unseen, encoded = pico
    reward = RewardModel(small_model(name, tokenizer.vocab_size))
    golds = some_gold_trees(encoded, context_groups(encoded, 512), 0)
    raw = model_rewards(reward, golds, tokenizer.eos_id, raw=True)
    before = raw_scores(reward, unseen.trees.trees, tokenizer.eos_id).view(-1, 2)
    reward.set_normalisation(raw)
    scores = model_rewards(reward, golds, tokenizer.eos_id)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std(correction=0)) == pytest.approx(1, abs=1e-3)
    assert torch.equal(scores.argsort(stable=True), raw.argsort(stable=True))
    # Raw scores know nothing of it, and doing it again changes nothing.
    again = raw_scores(reward, unseen.trees.trees, tokenizer.eos_id).view(-1, 2)
    assert torch.equal(again, before)
    mean, std = reward.mean.clone(), reward.std.clone()
    reward.set_normalisation(model_rewards(reward, golds, tokenizer.eos_id, raw=True))
    assert torch.equal(reward.mean, mean) and torch.equal(reward.std, std)


def test_the_stored_normalisation_is_that_of_the_golds(chain_of, model_type):
    folder = chain_of(model_type).folder
    found = load_checkpoint(folder / f"checkpoints/{model_type}_train_reward_model/final.pt")
    data = load_squad("pico", num_examples=60)
    encoded = encode_paragraphs(data.train, found.tokenizer)
    golds = some_gold_trees(encoded, context_groups(encoded, 512), 0)
    scores = model_rewards(found.model, golds, found.tokenizer.eos_id)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std(correction=0)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_a_reward_model_learns_a_toy(name):
    """Loss ln 2 at equal scores, then far below it with every pair in order."""
    reward, trees = RewardModel(model_of(name)), trees_of(2, contexts=3)
    with torch.no_grad():
        reward.head.linear.weight.zero_()
    optimizer = make_optimizer({"reward": reward})
    losses = []
    for _ in range(40):
        figures = train_reward_model.reward_backward(reward, trees, EOS, flags_of())
        losses.append(figures["loss"])
        optimizer_step(optimizer, 1e-2, 1.0, figures["loss"], False)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < 0.1 and figures["accuracy"] == 100 and figures["margin_nats"] > 2


def test_accuracy_is_reported_by_kind_beside_a_length_rule(chain_of, model_type):
    metrics = chain_of(model_type).metrics["train_reward_model"]
    kinds = [key for kind in CORRUPTIONS if (key := f"accuracy_{kind}") in metrics]
    assert {"accuracy", "length_rule"} <= metrics.keys() and len(kinds) >= 3
    assert all(0 <= metrics[key] <= 100 for key in (*kinds, "accuracy", "length_rule"))


def pairs_by_hand():
    """Scores of five pairs in the order of their trees, which is not that of their numbers:
    sentence 1 and 1/2, shifted 0, 1/2 and 0."""
    kinds = ["shifted", "sentence", "shifted", "sentence", "shifted"]
    pairs = [Pair(f"q{n}", n // 2, 0, "gold", "text", k, 0) for n, k in enumerate(kinds)]
    trees = PairTrees([], [[3, 4], [0], [2, 1]], 0)
    scores = [[-1.0, -2.0], [0.0, 3.0], [1.0, 1.0], [-5.0, -4.0], [7.0, 7.0]]
    return torch.tensor(scores), PairSet(pairs, trees)


def test_accuracy_by_hand_ties_half():
    scores, pair_set = pairs_by_hand()
    assert pairs_module.accuracy(scores, pair_set).value == pytest.approx(100 * 2 / 5)
    points, denominators, groups = pairs_module.pair_points(scores, pair_set)
    assert points == [1.0, 0.0, 0.5, 0.0, 0.5]
    assert denominators == [0.01] * 5 and groups == [1, 2, 0, 1, 0]


def test_margin_by_hand():
    """Of margins 1, -3, 0, -1 and 0."""
    assert pairs_module.margin(*pairs_by_hand()).value == pytest.approx(-3 / 5)


def test_accuracy_by_kind_by_hand():
    """Of each kind's own pairs, and only of kinds that occur."""
    found = pairs_module.accuracy_by_kind(*pairs_by_hand())
    values = {kind: interval.value for kind, interval in found.items()}
    assert values == pytest.approx({"sentence": 100 * 3 / 4, "shifted": 100 * 1 / 6})


# --- --compile ---


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method")  # of torch's own compiler
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", MODEL_TYPES)
def test_a_compiled_model_has_the_same_gradients(name):
    """To rounding, also in another tree batch than the one it was compiled for."""
    found = []
    replaced = "read_packed" if name == "transformer" else "forward"
    for compiled in (False, True):
        model = model_of(name)
        args = argparse.Namespace(compile=compiled, shard=False, lora_rank=None)
        prepare({"model": model}, args, CPU)
        # An attribute of its own stands before the class's method.
        assert (replaced in vars(model)) == compiled
        for contexts in (4, 2):
            main_squad.sft_backward(model, trees_of(1, contexts), EOS, flags_of())
        found.append(gradients(model))
    plain, compiled = found
    assert max(g.abs().max() for g in plain.values()) > 1e-3 and plain.keys() == compiled.keys()
    for key, gradient in plain.items():
        assert torch.allclose(compiled[key], gradient, rtol=1e-4, atol=1e-5), key


def test_a_dealt_answer_is_cut_to_the_room_its_question_leaves():
    trees = [([1] * 6, [([2], [[3]]), ([2, 2], [[4, 4, 4]])])]
    for step in range(4):
        dealt = apply_control(trees, "shuffled_answers", f"0/{step}", 10, [[3], [4, 4, 4]])
        ((context, questions),) = dealt
        assert all(len(context) + len(q) + len(a) + 1 <= 10 for q, (a,) in questions)
        assert {len(a) for _, (a,) in questions} <= {1, 2, 3}


def test_scores_that_do_not_differ_keep_their_scale(capsys):
    """A rounding's worth of spread is no unit: rewards would be millions of it."""
    reward, golds = RewardModel(model_of("kgram")), [([1], [([2], [[3]])] * 4)]
    normalise_on(reward, golds, EOS)
    assert reward.std == 1 and "scores of 4 gold answers do not differ" in capsys.readouterr().err
    assert model_rewards(reward, golds, EOS).tolist() == pytest.approx([0] * 4, abs=1e-6)


def test_normalisation_by_hand():
    """Scores 1, 3 and 5 have mean 3 and variance 8 / 3, so 7 is 6 ** 0.5 deviations above; the
    critic that starts from the reward model has this in its head."""
    reward = heads.RewardModel(model_of("kgram"))
    reward.set_normalisation(torch.tensor([1.0, 3.0, 5.0]))
    assert reward.mean == 3 and float(reward.std) == pytest.approx((8 / 3) ** 0.5)
    assert reward.normalise(torch.tensor([3.0, 7.0])).tolist() == pytest.approx([0, 6**0.5])
    end = torch.randn(4, 16)
    with torch.no_grad():
        wanted = (reward.head(end) - 3) / (8 / 3) ** 0.5
        torch.testing.assert_close(heads.Critic.of_reward(reward).values(end), wanted)


def test_what_is_rounding_of_scores_is_relative_to_their_size():
    reward = heads.RewardModel(model_of("kgram"))
    for size in (1e-6, 1.0, 1e6):
        for scores, differ in (
            ([1.0, 1.0, 1.0000001], False), ([1000.3] * 7, False), ([0.0] * 3, False),
            ([1.0, 3.0, 5.0], True), ([1.0, 1.0, 1.001], True), ([-1.0, 1.0], True),
        ):
            raw = size * torch.tensor(scores)
            reward.set_normalisation(raw)
            deviation = raw.double().std(correction=0).item() if differ else 1.0
            assert float(reward.std) == pytest.approx(deviation, rel=1e-3)
