"""The work that both sides do: the same questions as ids, the same weights in both layouts.

A batch is a list of trees, (context ids, [(question ids, [chosen ids, rejected ids])]), as
everywhere in src; answers come without their EOS.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bench.pipes import ROOT
from src.data.encoding import encode_paragraphs
from src.data.squad_loader import load_squad
from src.data.squad_preferences import make_pairs
from src.data.squad_types import Paragraph
from src.data.tokenizers.tokenizer import PATTERNS, Tokenizer, load_tokenizer
from src.data.windows import Tree
from src.model.heads import ScalarHead
from src.model.model import build_model
from src.preference.pair_batches import preference_trees

# The shape that all figures are given for, and a small one to try the scripts with.
SHAPE = {
    "vocab_size": 8192, "n_layer": 4, "n_embd": 256, "n_head": 4, "n_inner": 688,
    "block_size": 1024,
}
TINY = SHAPE | {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_inner": 64}
CACHE = ROOT / ".cache" / "bench"
POOL_TREES = 64
STOP, QUESTIONS_A_CONTEXT = 0, 5  # of random data: the EOS token, other ids begin above it
NEW_TOKENS = 16  # of an answer that PPO samples or that is generated greedily


class Work(NamedTuple):
    """grouped: batches of exactly so many questions, below their contexts.
    shuffled: the questions of all grouped batches but the first, in new batches, each below a
    context of its own.
    held_out: trees of other articles.
    eos_id; pad_id: an id that no text has, for peers that need one.
    """

    grouped: list[list[Tree]]
    shuffled: list[list[Tree]]
    held_out: list[Tree]
    eos_id: int
    pad_id: int


def alone(trees: list[Tree], samples: int = 1) -> list[Tree]:
    """Every question below a context of its own, `samples` times over: reading row by row."""
    return [
        (context, [question])
        for context, questions in trees
        for question in questions
        for _ in range(samples)
    ]


def bench_tokenizer(paragraphs: list[Paragraph], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of `vocab_size` ids trained on these paragraphs, kept in .cache/bench."""
    from tools.train_tokenizer import prompt_text, train, write_ranks

    texts = [
        prompt_text(p.context, [(q.text, q.answers[0]) for q in p.questions]) for p in paragraphs
    ]
    digest = hashlib.sha256("\n".join([str(vocab_size), *texts]).encode()).hexdigest()[:16]
    path = CACHE / f"{digest}.tiktoken"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        write_ranks(train(texts, vocab_size, PATTERNS["gpt2"]), path)
    return load_tokenizer(str(path))


def exact_batches(trees: list[Tree], questions: int, seed: int) -> list[list[Tree]]:
    """Batches of whole contexts with exactly `questions` questions. Contexts of similar length come
    together: trees are shuffled, pooled, sorted in their pool and put into the first batch with
    room. Batches that never fill up are left out.
    """
    order = np.random.default_rng(seed).permutation(len(trees)).tolist()
    full: list[list[Tree]] = []
    for start in range(0, len(order), POOL_TREES):
        pool = sorted(order[start : start + POOL_TREES], key=lambda i: len(trees[i][0]))
        room: list[int] = []
        batches: list[list[Tree]] = []
        for tree in (trees[i] for i in pool if len(trees[i][1]) <= questions):
            place = next((n for n, left in enumerate(room) if left >= len(tree[1])), len(room))
            if place == len(room):
                room.append(questions)
                batches.append([])
            room[place] -= len(tree[1])
            batches[place].append(tree)
        full += [batch for batch, left in zip(batches, room, strict=True) if not left]
    return [full[i] for i in np.random.default_rng(seed).permutation(len(full))]


def make_work(dataset: str, difficulty: int, batches: int, questions: int, seed: int = 0) -> Work:
    """Batches for one check step and `batches` - 1 timed ones, from SQuAD-shaped data."""
    wanted = 12 * batches * questions
    data = load_squad(dataset, num_examples=max(3000, wanted), difficulty=difficulty)
    tokenizer = bench_tokenizer(data.train, SHAPE["vocab_size"] - 1)

    def trees_of(paragraphs: list[Paragraph]) -> list[Tree]:
        encoded = encode_paragraphs(paragraphs, tokenizer)
        pairs = make_pairs(paragraphs, seed, dataset)
        return preference_trees(encoded, pairs, tokenizer, SHAPE["block_size"], seed=seed).trees

    grouped = exact_batches(trees_of(data.train), questions, seed)[:batches]
    if len(grouped) < batches:
        raise SystemExit(f"{dataset} fills {len(grouped)} batches of {questions}, not {batches}")
    rows = [tree for batch in grouped[1:] for tree in alone(batch)]
    rows = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    shuffled = [rows[i : i + questions] for i in range(0, len(rows), questions)]
    held_out = trees_of(data.validation)[:40]
    return Work(grouped, shuffled, held_out, tokenizer.eos_id, SHAPE["vocab_size"] - 1)


def random_trees(contexts: int, vocab_size: int, seed: int) -> list[Tree]:
    """SQuAD's lengths: contexts of about 170 tokens with 5 questions of about 18, and to each a
    chosen and a rejected answer of about 4.
    """
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> list[int]:
        return rng.integers(STOP + 1, vocab_size, rng.integers(low, high + 1)).tolist()

    def question() -> tuple[list[int], list[list[int]]]:
        return ids(12, 24), [ids(1, 7), ids(1, 7)]

    def tree() -> Tree:
        return ids(100, 240), [question() for _ in range(QUESTIONS_A_CONTEXT)]

    return [tree() for _ in range(contexts)]


def random_work(batches: int, questions: int, seed: int = 0) -> Work:
    """Batches as of `make_work`, of `random_trees`: needs no data and no tokenizer."""
    size, contexts = SHAPE["vocab_size"] - 1, max(1, questions // QUESTIONS_A_CONTEXT)
    if questions != contexts * QUESTIONS_A_CONTEXT:
        raise SystemExit(f"{questions} questions of random data, expected a multiple of "
                         f"{QUESTIONS_A_CONTEXT}")
    grouped = [random_trees(contexts, size, seed + number) for number in range(batches)]
    rows = [tree for batch in grouped[1:] for tree in alone(batch)]
    rows = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    shuffled = [rows[i : i + questions] for i in range(0, len(rows), questions)]
    return Work(grouped, shuffled, random_trees(8, size, seed + batches), STOP, size)


def llama_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our transformer's weights under the names of transformers' LlamaModel."""
    out = {"embed_tokens.weight": state["embedding.weight"], "norm.weight": state["norm.weight"]}
    for layer in range(1 + max(int(n.split(".")[1]) for n in state if n.startswith("blocks."))):
        ours, theirs = f"blocks.{layer}.", f"layers.{layer}."
        keys, values = state[f"{ours}key_value.weight"].chunk(2)
        gate, up = state[f"{ours}gate_up.weight"].chunk(2)
        out |= {
            f"{theirs}input_layernorm.weight": state[f"{ours}attention_norm.weight"],
            f"{theirs}post_attention_layernorm.weight": state[f"{ours}mlp_norm.weight"],
            f"{theirs}self_attn.q_proj.weight": state[f"{ours}query.weight"],
            f"{theirs}self_attn.k_proj.weight": keys,
            f"{theirs}self_attn.v_proj.weight": values,
            f"{theirs}self_attn.o_proj.weight": state[f"{ours}attention_out.weight"],
            f"{theirs}mlp.gate_proj.weight": gate,
            f"{theirs}mlp.up_proj.weight": up,
            f"{theirs}mlp.down_proj.weight": state[f"{ours}down.weight"],
        }
    return {name: tensor.clone() for name, tensor in out.items()}


def write_weights(folder: Path, shape: dict, seeds: dict[str, int]) -> None:
    """Weights of each name, drawn from its seed, in both layouts: NAME.pt and NAME.llama.pt.

    Larger than an initialisation, so that a wrong mask or shift shows in the first loss.
    """
    for name, seed in seeds.items():
        torch.manual_seed(seed)
        model = build_model("transformer", shape)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.03 * torch.randn_like(parameter))
        head = ScalarHead(shape["n_embd"]).linear.weight.detach()
        state = model.state_dict()
        torch.save({"backbone": state, "head": head}, folder / f"{name}.pt")
        torch.save({"backbone": llama_weights(state), "head": head}, folder / f"{name}.llama.pt")


def write_work(folder: Path, work: Work, shape: dict) -> None:
    """work.json and the weights of policy, reference, reward model and critic."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "work.json").write_text(json.dumps({**work._asdict(), "shape": shape}))
    write_weights(folder, shape, {"policy": 1, "reference": 2, "reward": 3, "critic": 4})


def count_questions(trees: list[Tree]) -> int:
    """Questions of a batch."""
    return sum(len(questions) for _, questions in trees)
