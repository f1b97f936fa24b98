"""How near to the machine's limit SFT and DPO run, and where the rest goes.

    PYTHONPATH=. python bench/limit.py --dataset squad_folder

Utilisation: useful floating-point operations (bench/flops.py) / seconds of the scripts' own step /
the rate of a large float32 product. All are measured in turns in this run. The same step is also
timed in parts: data (next batch, tree batch), reference (DPO), forward, head (logits and loss, both
directions), backward, optimizer.
"""

import argparse
import json
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench.flops import BACKWARD, forward_flops, masked_share
from bench.machine import machine, product_rate, quartiles, table
from bench.pipes import CLOCKS, ROOT
from bench.work import SHAPE, bench_tokenizer, count_questions
from main_squad import sft_backward
from src.data.encoding import encode_paragraphs
from src.data.squad_dataset import context_groups, indexed_batches
from src.data.squad_loader import load_squad
from src.data.squad_preferences import make_pairs
from src.inference.logprobs import (
    Tree,
    build_tree_batch,
    completion_hidden,
    completion_logps,
    logp_of_hidden,
)
from src.losses import dpo_loss, sequence_sum, sft_loss
from src.model.model import build_model
from src.preference.pair_batches import pair_batches, preference_trees
from src.training.optimizer import make_optimizer, optimizer_step
from src.utils.exit_handling import command
from train_dpo import dpo_backward

RATE = 1e-4
PARTS = ("data", "reference", "forward", "head", "backward", "optimizer")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dataset", default="pico", help="pico, or the path of SQuAD data (default pico)")
    add("--difficulty", type=int, default=5, help="of pico, 1 to 5 (default 5, long contexts)")
    add("--contexts", type=int, default=4, help="a step, with all their questions (default 4)")
    add("--repeats", type=int, default=15, help="timed steps of each kind (default 15)")
    add("--threads", type=int, default=2, help="default 2")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: processor seconds, for a busy "
        "machine, with --threads 1 only (default wall)")
    add("--profile", action="store_true", help="print the twenty costliest operators of each step")
    add("--output", type=Path, default=ROOT / "runs/bench/limit.json", help="JSON of the figures")
    return parser.parse_args(argv)


class Stage:
    """A policy, its optimizer, and the batches that the script would see."""

    def __init__(self, name: str, batches: Iterator, eos_id: int) -> None:
        self.name, self.batches, self.eos_id = name, batches, eos_id
        torch.manual_seed(0)
        self.model = build_model("transformer", SHAPE)
        self.reference = build_model("transformer", SHAPE) if name == "dpo" else None
        self.optimizer = make_optimizer({"model": self.model})
        self.args = Namespace(
            micro_batch_size=None, micro_batch_tokens=10**9, lm_weight=0.0, beta=0.1,
            label_smoothing=0.0, loss_type="sigmoid", nll_weight=0.0,
        )

    def frozen(self, trees: list[Tree]) -> torch.Tensor:
        """What the reference says, (pairs, 2) nats."""
        return completion_logps(self.reference, trees, self.eos_id).view(-1, 2)

    def step(self) -> list[Tree]:
        """The script's step, whole; returns its trees."""
        trees = next(self.batches).trees
        if self.name == "sft":
            record = sft_backward(self.model, trees, self.eos_id, self.args)
        else:
            frozen = self.frozen(trees)
            record = dpo_backward(self.model, trees, frozen, self.eos_id, self.args)
        optimizer_step(self.optimizer, RATE, 1.0, record["loss"], skip_nonfinite=False)
        return trees

    def parts(self, clock: Callable[[], float]) -> tuple[dict[str, float], float, list[Tree]]:
        """Seconds of each part of the same step, the share of masked scores, and the trees."""
        spent = {}
        started = clock()
        trees = next(self.batches).trees
        tree_batch = build_tree_batch(trees, self.eos_id)
        spent["data"], started = clock() - started, clock()
        frozen = self.frozen(trees) if self.name == "dpo" else None
        spent["reference"], started = clock() - started, clock()
        hidden = completion_hidden(self.model, tree_batch)
        spent["forward"], started = clock() - started, clock()
        cut = hidden.detach().requires_grad_()
        logp, mask = logp_of_hidden(self.model, cut, tree_batch.targets, tree_batch.mask)
        if frozen is None:
            loss = sft_loss(logp, mask, int(mask.sum()))
        else:
            policy = sequence_sum(logp, mask).view(-1, 2)
            loss = dpo_loss(*policy.T, *frozen.T, self.args.beta).loss
        loss.backward()
        spent["head"], started = clock() - started, clock()
        hidden.backward(cut.grad)
        spent["backward"], started = clock() - started, clock()
        optimizer_step(self.optimizer, RATE, 1.0, loss.item(), skip_nonfinite=False)
        spent["optimizer"] = clock() - started
        return spent, masked_share(tree_batch), trees

    def flops(self, trees: list[Tree]) -> int:
        """Useful operations of a step on these trees."""
        forward = forward_flops(self.model.config, trees)
        return forward * (1 + BACKWARD + (self.reference is not None))


def make_stages(args: argparse.Namespace) -> list[Stage]:
    """SFT and DPO on the script's own batches."""
    data = load_squad(args.dataset, num_examples=3000, difficulty=args.difficulty)
    tokenizer = bench_tokenizer(data.train, SHAPE["vocab_size"] - 1)
    encoded = encode_paragraphs(data.train, tokenizer)
    block, size = SHAPE["block_size"], args.contexts
    pairs = make_pairs(data.train, 0, args.dataset)
    trees = preference_trees(encoded, pairs, tokenizer, block, seed=0)
    units = context_groups(encoded, block)
    sft = indexed_batches(encoded, units, batch_size=size, seed=0)
    dpo = pair_batches(trees, batch_size=size, seed=0)
    stop = tokenizer.eos_id
    return [Stage("sft", sft, stop), Stage("dpo", dpo, stop)]


def measure(stage: Stage, repeats: int, clock: Callable[[], float]) -> dict:
    """Products, whole steps and steps in parts take turns."""
    for _ in range(2):
        stage.step(), stage.parts(clock)
    rates, use, speed, seconds, masked = [], [], [], [], []
    parts: dict[str, list[float]] = {name: [] for name in PARTS}
    for _ in range(repeats):
        rates.append(product_rate(clock, repeats=1))
        started = clock()
        trees = stage.step()
        whole = clock() - started
        seconds.append(whole)
        speed.append(stage.flops(trees) / whole)
        use.append(count_questions(trees) / whole)
        spent, share, trees = stage.parts(clock)
        masked.append(share)
        for name, value in spent.items():
            parts[name].append(value)
    rate = statistics.median(r["square"] for r in rates)
    return {
        "seconds": quartiles(seconds),
        "questions_per_second": quartiles(use),
        "useful_gflops": quartiles([1e-9 * s for s in speed]),
        "product_gflops": {k: statistics.median(r[k] for r in rates) for k in rates[0]},
        "utilisation": quartiles([1e-9 * s / rate for s in speed]),
        "masked_share": statistics.mean(masked),
        "seconds_by_part": {name: statistics.median(x) for name, x in parts.items()},
    }


def profile(stage: Stage, steps: int = 5) -> str:
    """The twenty operators with the most time of their own over some steps."""
    activity = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activity, record_shapes=False) as prof:
        for _ in range(steps):
            stage.step()
    return prof.key_averages().table(
        sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=45
    )


@command
def main(argv: list[str] | None = None) -> dict:
    """Measure, print the tables, write the JSON."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    results: dict = {"machine": machine(), "stages": {}}
    print(json.dumps(results["machine"]), file=sys.stderr)
    whole, parts = [], []
    for stage in make_stages(args):
        found = results["stages"][stage.name] = measure(stage, args.repeats, CLOCKS[args.clock])
        low, use, high = (f"{100 * x:.0f}" for x in found["utilisation"])
        rates = found["product_gflops"]
        whole.append([
            stage.name, f"{found['questions_per_second'][1]:.1f}",
            f"{1000 * found['seconds'][1]:.0f}", f"{found['useful_gflops'][1]:.1f}",
            f"{rates['square']:.0f} / {rates['model']:.0f}", f"{use} ({low} to {high})",
            f"{100 * found['masked_share']:.1f}",
        ])
        total = sum(found["seconds_by_part"].values())
        parts.append([stage.name] + [
            f"{1000 * s:.1f} ({100 * s / total:.0f}%)" for s in found["seconds_by_part"].values()
        ])
        if args.profile:
            print(profile(stage))
    print(table(["step", "questions/s", "ms", "useful GFLOP/s", "product GFLOP/s (square / model)",
                 "utilisation %", "masked %"], whole))
    print()
    print(table(["ms of a step", *PARTS], parts))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    main()
