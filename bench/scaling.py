"""What a step costs as each dimension of the work grows: curves, their JSON and their plots.

    PYTHONPATH=. python bench/scaling.py

One dimension grows at a time, the others stay as in the base case. Trees of random ids with exact
lengths go through main_squad.py's step (loss on the answers). The measured seconds are printed
beside what they would be in proportion to the useful operations of bench/flops.py. Data size is
measured separately: seconds to load and encode, the first time and from the cache, and one step.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from bench.flops import BACKWARD, forward_flops
from bench.machine import machine, table
from bench.pipes import CLOCKS, ROOT
from bench.work import SHAPE
from main_squad import sft_backward
from src.data.encoding import encode_paragraphs
from src.data.squad_dataset import context_groups, indexed_batches
from src.data.squad_loader import load_squad
from src.data.tokenizers.tokenizer import load_tokenizer
from src.data.windows import Tree
from src.model.model import build_model
from src.training.optimizer import make_optimizer, optimizer_step
from src.utils.exit_handling import command

CONTEXTS, QUESTION_TOKENS, ANSWER_TOKENS = 4, 16, 5
BASE = {"context": 180, "questions": 5, "answers": 1, "width": 256, "depth": 4, "vocabulary": 8192}
AXES = {
    "context": (45, 90, 180, 360, 720),
    "questions": (1, 2, 5, 10, 20),
    "answers": (1, 2, 4, 8),
    "width": (64, 128, 256, 512),
    "depth": (1, 2, 4, 8),
    "vocabulary": (2048, 8192, 32768, 131072),
}
NAMES = {
    "context": "tokens of a context", "questions": "questions a context",
    "answers": "answers a question", "width": "width", "depth": "layers",
    "vocabulary": "vocabulary",
}
# The form that a curve should have, and why; the run's own figures stand before it.
BECAUSE = {
    "context": "linear while the blocks' products rule, since a context is read once for all its "
    "questions; the share of attention, which grows with the square, shows at the long end",
    "questions": "far less than in proportion: the context is paid once, and a question adds only "
    "its own tokens",
    "answers": "less than in proportion: context and question are paid once, and an answer adds a "
    "few tokens and its logits",
    "width": "towards the square of the width, where products rule; narrow models pay for calls "
    "and elementwise work, which grow with the width or not at all",
    "depth": "in proportion to the layers but one, above what embedding, logits, optimizer and "
    "the last layer cost: of the last one, prefixes need keys and values only",
    "vocabulary": "flat while logits at answer positions are few against the blocks; at the long "
    "end gradient and optimizer pass over the embedding, one row an id, whether it occurred or not",
}
DATA_SIZES = (1000, 4000, 16000, 64000)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--axes", nargs="+", choices=[*AXES, "data"], default=[*AXES, "data"], help="default: all")
    add("--repeats", type=int, default=5, help="timed steps a point (default 5)")
    add("--threads", type=int, default=2, help="default 2")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: processor seconds, for a busy "
        "machine, with --threads 1 only (default wall)")
    add("--output", type=Path, default=ROOT / "runs/bench/scaling", help="folder of JSON and plots")
    return parser.parse_args(argv)


def trees_of(point: dict[str, int], seed: int = 0) -> list[Tree]:
    """Four contexts of random ids with the point's exact lengths and counts."""
    rng = np.random.default_rng(seed)

    def ids(count: int) -> list[int]:
        return rng.integers(0, point["vocabulary"] - 1, count).tolist()

    return [
        (ids(point["context"]), [
            (ids(QUESTION_TOKENS), [ids(ANSWER_TOKENS) for _ in range(point["answers"])])
            for _ in range(point["questions"])
        ])
        for _ in range(CONTEXTS)
    ]


def stepper(point: dict[str, int]) -> tuple[Callable[[], object], int]:
    """A step of the point's model on the point's trees, and its useful operations."""
    shape = {
        "vocab_size": point["vocabulary"], "n_layer": point["depth"], "n_embd": point["width"],
        "n_head": max(1, point["width"] // 64), "block_size": SHAPE["block_size"],
    }
    torch.manual_seed(0)
    model = build_model("transformer", shape)
    optimizer = make_optimizer({"model": model})
    trees = trees_of(point)
    args = Namespace(micro_batch_size=None, micro_batch_tokens=10**9, lm_weight=0.0)

    def step() -> None:
        record = sft_backward(model, trees, point["vocabulary"] - 1, args)
        optimizer_step(optimizer, 1e-4, 1.0, record["loss"], skip_nonfinite=False)

    return step, forward_flops(model.config, trees) * (1 + BACKWARD)


def curve(axis: str, repeats: int, clock: Callable[[], float]) -> list[dict]:
    """Median seconds at each value of the axis; the values take turns, so that noise hits all."""
    points = {value: stepper(BASE | {axis: value}) for value in AXES[axis]}
    seconds: dict[int, list[float]] = {value: [] for value in points}
    for turn in range(repeats + 1):
        for value, (step, _) in points.items():
            started = clock()
            step()
            if turn:  # the first is to warm up
                seconds[value].append(clock() - started)
    return [
        {"value": value, "seconds": statistics.median(seconds[value]), "all": seconds[value],
         "flops": flops}
        for value, (_, flops) in points.items()
    ]


def data_curve(clock: Callable[[], float]) -> list[dict]:
    """Seconds to generate, encode, encode from the cache, and make a batch, by questions."""
    tokenizer, points = load_tokenizer("pico"), []
    for size in DATA_SIZES:
        with tempfile.TemporaryDirectory() as cache:
            marks = [clock()]
            train = load_squad("pico", num_examples=size).train
            marks.append(clock())
            encode_paragraphs(train, tokenizer, cache)
            marks.append(clock())
            encoded = encode_paragraphs(train, tokenizer, cache)
            marks.append(clock())
        units = context_groups(encoded, block_size=1024)
        batches = indexed_batches(encoded, units, batch_size=8, seed=0)
        next(batches)
        marks.append(clock())
        for _ in range(20):
            next(batches)
        spent = np.diff([*marks, clock()]).tolist()
        names = ("load", "encode", "from_cache", "first_batch", "batch")
        points.append({"value": size, **dict(zip(names, spent, strict=True))})
        points[-1]["batch"] /= 20
    return points


def slope(points: Sequence[dict], key: str) -> float:
    """Exponent of growth between the last two points: 1 is in proportion."""
    (a, b), (x, y) = [(p["value"], p[key]) for p in points[-2:]]
    return math.log(y / b) / math.log(x / a)


def explain(axis: str, points: Sequence[dict]) -> str:
    """A sentence for the curve, figures from this run."""
    first, last = points[0], points[-1]
    if axis == "data":
        return (
            f"data: {last['value'] / first['value']:.0f}x the questions take "
            f"{last['load'] / first['load']:.1f}x the time to load, "
            f"{last['encode'] / first['encode']:.1f}x to encode, "
            f"{last['from_cache'] / first['from_cache']:.1f}x to read from the cache: in "
            f"proportion, a question at a time; a batch costs {1e3 * first['batch']:.1f} to "
            f"{1e3 * last['batch']:.1f} ms, since only its own trees are made."
        )
    return (
        f"{axis}: {last['value'] / first['value']:.0f}x the {NAMES[axis]} cost "
        f"{last['seconds'] / first['seconds']:.1f}x the time for "
        f"{last['flops'] / first['flops']:.1f}x the useful operations (exponent at the end "
        f"{slope(points, 'seconds'):.2f}, operations {slope(points, 'flops'):.2f}). "
        f"Expected: {BECAUSE[axis]}."
    )


def plot(curves: dict[str, list[dict]], path: Path) -> None:
    """All curves on one sheet, doubly logarithmic; dashed: in proportion to the operations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 3.2 * rows), squeeze=False)
    for place in axes.flat[len(curves) :]:
        place.remove()
    for place, (axis, points) in zip(axes.flat, curves.items(), strict=False):
        values = [p["value"] for p in points]
        if axis == "data":
            for key in ("load", "encode", "from_cache"):
                place.loglog(values, [p[key] for p in points], marker="o", label=key)
        else:
            place.loglog(values, [p["seconds"] for p in points], marker="o", label="measured")
            base = next(p for p in points if p["value"] == BASE[axis])
            scale = base["seconds"] / base["flops"]
            expected = [scale * p["flops"] for p in points]
            place.loglog(values, expected, "--", label="as the operations")
        place.set_xlabel("training questions" if axis == "data" else NAMES[axis])
        place.set_ylabel("seconds" if axis == "data" else "seconds a step")
        place.set_xticks(values, [str(value) for value in values])
        place.set_xticks([], minor=True)
        place.legend(fontsize=8)
        place.grid(True, which="both", alpha=0.2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


@command
def main(argv: list[str] | None = None) -> dict:
    """Measure the curves, print and explain them, write JSON and PNG."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    clock = CLOCKS[args.clock]
    results: dict = {"machine": machine(), "base": BASE, "curves": {}}
    print(json.dumps(results["machine"]), file=sys.stderr)
    for axis in args.axes:
        points = data_curve(clock) if axis == "data" else curve(axis, args.repeats, clock)
        results["curves"][axis] = points
        keys = [key for key in points[0] if key not in ("value", "all")]
        rows = [[str(p["value"]), *(f"{p[key]:.3g}" for key in keys)] for p in points]
        print(table([axis, *keys], rows) + f"\n\n{explain(axis, points)}\n")
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "scaling.json").write_text(json.dumps(results, indent=1))
    plot(results["curves"], args.output / "scaling.png")
    return results


if __name__ == "__main__":
    main()
