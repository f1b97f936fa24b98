"""The comparisons do equal work, and count it as a hand would; no peer and no clock is asked."""

import json
from argparse import Namespace

import pytest
import torch
from conftest import perturb

from bench import gpu, vs_trl
from bench.flops import forward_flops, masked_share, step_flops
from bench.ours import kl_of
from bench.work import (
    alone,
    count_questions,
    exact_batches,
    llama_weights,
    random_trees,
    random_work,
)
from main_squad import sft_backward
from src.inference.logprobs import build_tree_batch, score_completions
from src.model.model import build_model
from src.training.progress import tokens_read
from train_dpo import dpo_backward

TREES = [
    ([1, 2, 3, 4, 5], [([6, 7, 8], [[9], [10, 11]]), ([6, 8], [[12, 13], [14]])]),
    ([3, 3, 1], [([7, 8, 8, 8], [[9, 9], [10]])]),
]
EOS = 19


def small():
    torch.manual_seed(0)
    shape = {"vocab_size": 20, "n_layer": 2, "n_embd": 16, "n_head": 2, "n_inner": 32}
    return perturb(build_model("transformer", shape))


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


def test_alone_gives_every_question_a_context_of_its_own():
    assert alone(TREES) == [
        ([1, 2, 3, 4, 5], [([6, 7, 8], [[9], [10, 11]])]),
        ([1, 2, 3, 4, 5], [([6, 8], [[12, 13], [14]])]),
        ([3, 3, 1], [([7, 8, 8, 8], [[9, 9], [10]])]),
    ]
    assert count_questions(alone(TREES)) == count_questions(TREES) == 3
    assert alone(TREES[1:], samples=3) == 3 * TREES[1:]


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_the_sides_with_and_without_sharing_do_the_same_work(stage):
    model = small()
    args = Namespace(
        micro_batch_size=None, micro_batch_tokens=10**9, lm_weight=0.0, beta=0.1,
        label_smoothing=0.0, loss_type="sigmoid", nll_weight=0.0,
    )
    reference = torch.tensor([[-3.0, -5.0], [-6.0, -2.0], [-4.0, -4.5]])
    found = []
    for trees in (TREES, alone(TREES)):
        if stage == "sft":
            loss = sft_backward(model, trees, EOS, args)["loss"]
        else:
            loss = dpo_backward(model, trees, reference, EOS, args)["loss"]
        found.append((loss, gradients(model)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-5, atol=1e-6)


def test_useful_operations_by_hand():
    """One layer, D = 4, I = 8, V = 10: context of 3, question of 2, one answer of 1.

    A token costs 2 * 4 * 8 = 64 for its key and value. The rest of a block (query, output and the
    three matrices of the SwiGLU) costs 2 * 4 * (4 + 4 + 3 * 8) = 256. In the last (here the only)
    block the 3 + 1 tokens of the prefix need 64 each.
    The completion reads the last prompt token and the answer. This costs 2 * (64 + 256), attention
    to 5 and 6 keys at 4 * 4 each, and two logits rows at 2 * 4 * 10.
    """
    shape = {"vocab_size": 10, "n_layer": 1, "n_embd": 4, "n_head": 2, "n_inner": 8}
    config = build_model("transformer", shape).config
    trees = [([1, 2, 3], [([4, 5], [[6]])])]
    assert forward_flops(config, trees) == 4 * 64 + 2 * 320 + 16 * (5 + 6) + 2 * 80
    # A second layer reads everything whole below: 6 tokens, each seeing 1 to 6 keys.
    deeper = build_model("transformer", shape | {"n_layer": 2}).config
    first = 6 * 320 + 16 * (1 + 2 + 3 + 4 + 5 + 6)
    assert forward_flops(deeper, trees) == forward_flops(config, trees) + first


def test_operations_of_a_shared_context_are_counted_once():
    config = small().config
    shared, apart = forward_flops(config, TREES), forward_flops(config, alone(TREES))
    context = [(TREES[0][0], [])]
    assert apart == shared + forward_flops(config, context)


def test_operations_of_a_step_by_hand():
    """A pass with gradients is three; a logits row costs 2 * 4 * 10 in the model above. A reward
    needs keys and values of all tokens, 64 each, and the rest, 256, at EOS only, which
    is the seventh or later and sees as many keys at 4 * 4 each.
    """
    shape = {"vocab_size": 10, "n_layer": 1, "n_embd": 4, "n_head": 2, "n_inner": 8}
    config = build_model("transformer", shape).config
    pair = [([1, 2, 3], [([4, 5], [[6], [7, 8]])])]
    chosen, sampled = ([([1, 2, 3], [([4, 5], [answer])])] for answer in ([6], [0] * 3))
    one, two, four = (forward_flops(config, trees) for trees in (chosen, pair, sampled))
    assert step_flops(config, "sft", pair, 4) == 3 * one
    assert step_flops(config, "dpo", pair, 4) == 4 * two
    rewards = (4 + 3 + 4) * 64 + 2 * 256 + 16 * (7 + 8)
    assert step_flops(config, "reward", pair, 4) == 3 * rewards
    assert step_flops(config, "generate", pair, 4) == four
    values, reward = four - 4 * 80, (4 + 5) * 64 + 256 + 16 * 9
    passes = 2 * four + reward + values + 12 * (four + values)
    assert step_flops(config, "ppo", pair, 4) == passes
    both = forward_flops(config, [([1, 2, 3], [([4, 5], [[0] * 3, [0] * 3])])])
    values, reward = both - 8 * 80, (4 + 5 + 5) * 64 + 2 * (256 + 16 * 9)
    passes = 2 * both + reward + values + 12 * (both + values)
    assert step_flops(config, "ppo", pair, 4, samples=2) == passes


def test_masked_share_by_hand():
    """Context of 2, question of 1, completions of 2 and 1 tokens; a completion of 1. Scores: six
    tokens to the context, of which one does not see its second; the branch's four, that see 1, 2, 3
    and 2 of each other; the other completion to itself.
    """
    tree_batch = build_tree_batch([([1, 2], [([3, 4], [[5], []])]), ([], [([7], [[]])])], EOS)
    assert masked_share(tree_batch) == pytest.approx((1 + 8) / (6 * 2 + 4 * 4 + 1))


def test_batches_hold_exactly_as_many_questions_and_whole_contexts():
    trees = [([n], [([1], [[2]])] * (n % 7 + 1)) for n in range(100)]
    batches = exact_batches(trees, 8, seed=0)
    assert len(batches) > 20 and {count_questions(batch) for batch in batches} == {8}
    dealt = [tree[0][0] for batch in batches for tree in batch]
    assert len(dealt) == len(set(dealt))
    assert all(tree == trees[tree[0][0]] for batch in batches for tree in batch)


def test_exported_weights_give_the_same_hidden_states():
    transformers = pytest.importorskip("transformers")
    model = small()
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    theirs = transformers.LlamaModel(config).eval()
    theirs.load_state_dict(llama_weights(model.state_dict()))
    tokens = torch.randint(0, 20, (2, 9))
    mine = model(tokens, torch.full((2,), 9))[0]
    torch.testing.assert_close(mine, theirs(tokens).last_hidden_state, rtol=1e-5, atol=1e-5)


def test_the_check_of_ppo_leaves_the_stop_token_out():
    """Against log-softmax over whole rows, one answer at a time."""
    models = {"policy": small(), "reference": small()}
    with torch.no_grad():
        models["reference"].embedding.weight.mul_(0.5)
    side = Namespace(eos_id=EOS, backbone=models.get, device=torch.device("cpu"))
    answers = [[9, 9, 1], [10], [2, 3]]
    sums = []
    for (context, [(question, _)]), answer in zip(alone(TREES), answers, strict=True):
        tokens = torch.tensor([context + question + answer])
        logp = {}
        for name, model in models.items():
            hidden = model(tokens, torch.tensor([tokens.shape[1]]))[0][0, -len(answer) - 1 : -1]
            rows = model.logits(hidden).log_softmax(-1)
            logp[name] = rows[torch.arange(len(answer)), torch.tensor(answer)].sum()
        sums.append((logp["policy"] - logp["reference"]).item())
    assert kl_of(side, TREES, answers) == pytest.approx(sum(sums) / 3, abs=1e-5)
    twice = [answer for answer in answers for _ in range(2)]
    assert kl_of(side, TREES, twice) == pytest.approx(sum(sums) / 3, abs=1e-5)


def test_the_plain_loop_has_our_loss():
    """Context read once, questions of several lengths: the same summed nats as a tree batch's."""
    transformers = pytest.importorskip("transformers")
    from bench.plain_loop import context_loss

    model = small()
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    theirs = transformers.LlamaForCausalLM(config)
    theirs.model.load_state_dict(llama_weights(model.state_dict()))
    theirs.tie_weights()
    context, questions = TREES[0]
    loss = context_loss(theirs, context, questions, EOS)
    firsts = [(context, [(question, answers[:1]) for question, answers in questions])]
    mine = -score_completions(model, build_tree_batch(firsts, EOS)).logp.sum()
    torch.testing.assert_close(loss, mine, rtol=1e-5, atol=1e-5)
    loss.backward()
    mine.backward()
    gradient = theirs.model.embed_tokens.weight.grad
    torch.testing.assert_close(gradient, model.embedding.weight.grad, rtol=1e-4, atol=1e-5)


def test_random_work_has_its_questions_and_no_eos_or_padding_inside():
    """So many questions a batch; the same questions dealt anew; ids that both sides take."""
    work = random_work(3, 10)
    assert [count_questions(trees) for trees in work.grouped] == [10, 10, 10]
    assert [len(trees) for trees in work.shuffled] == [10, 10]
    rows = [tree for batch in work.grouped[1:] for tree in alone(batch)]
    dealt = [tree for batch in work.shuffled for tree in batch]
    assert sorted(map(str, rows)) == sorted(map(str, dealt))
    ids = {
        i for batch in work.grouped for context, questions in batch
        for i in [*context, *(i for q, answers in questions for x in (q, *answers) for i in x)]
    }
    assert min(ids) > work.eos_id and max(ids) < work.pad_id
    with pytest.raises(SystemExit, match="multiple of 5"):
        random_work(2, 16)


def test_the_gpu_bench_counts_a_failing_part_and_goes_on(tmp_path, monkeypatch, capsys):
    """On the CPU with a tiny model: a row and a profile are there, the broken stage is not."""
    monkeypatch.setattr(gpu, "dpo_backward", lambda *args: 1 / 0)
    chosen = [c for c in gpu.cases() if c.stage in ("sft", "dpo")][:2]
    monkeypatch.setattr(gpu, "cases", lambda: iter(chosen))
    monkeypatch.setattr(gpu, "PROFILED", chosen[:1])
    argv = ["--device", "cpu", "--tiny", "--repeats", "1", "--output", str(tmp_path)]
    assert gpu.main(argv) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["pico sft"]
    assert [one["name"] for one in found["failed"]] == ["pico dpo"]
    assert "ZeroDivisionError" in found["failed"][0]["traceback"]
    assert [one["name"] for one in found["profiles"]] == ["pico sft"]
    assert "pico sft" in (tmp_path / "gpu.md").read_text()
    assert not torch.is_autocast_enabled("cpu")
    assert gpu.main([*argv, "--seconds", "0"]) == 0  # no part begun, and all named
    assert len(json.loads((tmp_path / "gpu.json").read_text())["left_out"]) == 3


def test_a_gpus_busy_time_is_the_union_of_its_kernels():
    assert gpu.covered([(0, 2), (1, 3), (5, 6)]) == 4
    assert gpu.covered([]) == 0
    kinds = torch.autograd.DeviceType
    kernel, annotation, operator = (
        Namespace(device_type=kind, is_user_annotation=noted)
        for kind, noted in ((kinds.CUDA, False), (kinds.CUDA, True), (kinds.CPU, False))
    )
    assert gpu.on_gpu([annotation, kernel, operator]) == [kernel]


def test_the_gpu_bench_measures_the_default_model():
    size = gpu.SHAPES["pico"]["vocab_size"]
    default = build_model("transformer", {"vocab_size": size}).config
    assert gpu.build_config("pico") == default


def test_the_gpu_bench_counts_the_tokens_that_were_generated():
    """No answer ends by itself: each has 16 tokens."""
    trees = random_trees(2, 64, seed=0)
    step = gpu.make_step(gpu.Case("tiny", "greedy", "float32", 2), torch.device("cpu"))
    prompts = [(c, [(q, []) for q, _ in questions]) for c, questions in trees]
    generated = tokens_read(step(trees)) - tokens_read(prompts)
    assert generated == gpu.NEW_TOKENS * count_questions(trees)


def test_an_environment_whose_setup_was_interrupted_is_set_up_again(tmp_path, monkeypatch):
    """Its Python is there, trl is not."""
    installed = []

    def create(folder, with_pip):
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin/python").touch()

    def install(command, check):
        installed.append(command[-1])
        if len(installed) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(vs_trl, "ROOT", tmp_path)
    monkeypatch.setattr(vs_trl.venv, "create", create)
    monkeypatch.setattr(vs_trl.subprocess, "run", install)
    with pytest.raises(KeyboardInterrupt):
        vs_trl.environment(".venv-trl")
    for _ in range(2):
        assert vs_trl.environment(".venv-trl") == tmp_path / ".venv-trl/bin/python"
    assert installed == 2 * [vs_trl.TORCH, "transformers"]
