"""SFT steps of SmolLM2-135M: ours against a plain loop over transformers, taking turns.

    PYTHONPATH=. python bench/smollm2.py --dataset squad_folder

Both have the same weights (fetched as `--init_from smollm2` does), questions and optimizer. The
loop, too, reads each context once (plain_loop.py). The loss of the first step has to agree.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path

import torch

from bench.machine import machine, product_rate, quartiles, table
from bench.pipes import CLOCKS, ROOT, Worker
from bench.work import CACHE
from src.data.encoding import encode_paragraphs
from src.data.squad_loader import load_squad
from src.data.windows import Tree
from src.interop.export import contents_of
from src.interop.pretrained import SMOLLM2, load_pretrained
from src.utils.exit_handling import command

TOLERANCE = 1e-3
SIDES = {"ours": "bench.ours", "plain loop": "bench.plain_loop"}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dataset", required=True, help="the path of SQuAD data")
    add("--repeats", type=int, default=5, help="timed steps of each side (default 5)")
    add("--contexts", type=int, default=4, help="a step, all their questions (default 4)")
    add("--micro", type=int, default=2, help="contexts that ours has in memory (default 2)")
    add("--threads", type=int, default=2, help="of both sides (default 2)")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: processor seconds, for a busy "
        "machine, with --threads 1 only (default wall)")
    add("--output", type=Path, default=ROOT / "runs/bench/smollm2.json", help="JSON of the figures")
    return parser.parse_args(argv)


def write_work(folder: Path, args: argparse.Namespace) -> None:
    """The batches, and the weights in both layouts: policy.pt, and a folder for transformers."""
    start = load_pretrained(SMOLLM2)
    paragraphs = load_squad(args.dataset).train
    steps = 1 + args.repeats
    chosen = encode_paragraphs(paragraphs[: steps * args.contexts], start.tokenizer)
    trees: list[Tree] = [
        (list(p.tokens), [(list(q.tokens), [list(q.golds[0])]) for q in p.questions])
        for p in chosen
    ]
    batches = [trees[i : i + args.contexts] for i in range(0, len(trees), args.contexts)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, contents in contents_of(start).items():
        (folder / name).write_bytes(contents)
    torch.save({"backbone": start.model.state_dict()}, folder / "policy.pt")
    work = {
        "grouped": batches, "shape": dataclasses.asdict(start.model.config),
        "eos_id": start.tokenizer.eos_id, "micro": args.micro,
    }
    (folder / "work.json").write_text(json.dumps(work))


@command
def main(argv: list[str] | None = None) -> dict:
    """Measure; print the table and write the JSON."""
    args = parse(argv)
    folder = CACHE / "smollm2"
    results: dict = {"machine": machine() | {"threads": args.threads}}
    results["flags"] = {k: str(v) for k, v in vars(args).items()}
    write_work(folder, args)
    settings = {
        "folder": str(folder), "stage": "sft", "threads": args.threads, "rate": 1e-4,
        "clock": args.clock, "samples": 1, "shared": True, "compile": False,
        "device": "cpu", "dtype": "float32",
    }
    workers = {
        name: Worker(name, Path(sys.executable), module, folder / f"{module}.log", settings)
        for name, module in SIDES.items()
    }

    def step(name: str, number: int) -> dict:
        return workers[name].ask(do="step", batches="grouped", number=number)

    losses = [step(name, 0)["loss"] for name in SIDES]
    apart = results["first_loss_apart"] = abs(losses[0] - losses[1])
    print(f"first step, loss in nats: apart by {apart:.2e}", file=sys.stderr)
    if not apart <= TOLERANCE:
        raise SystemExit(f"the losses are {losses}, more than {TOLERANCE} apart")
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    products = []
    for number in range(1, args.repeats + 1):
        for name in SIDES:
            found = step(name, number)
            rates[name].append(found["examples"] / found["seconds"])
        products.append(product_rate()["square"])
    results |= {"rates": rates, "gflops": statistics.median(products)}
    results["peak_mb"] = {name: worker.close()["peak_mb"] for name, worker in workers.items()}
    ours = statistics.median(rates["ours"])
    lines = []
    for name, found in rates.items():
        low, middle, high = quartiles(found)
        lines.append([
            name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}", f"{ours / middle:.2f}x",
            f"{results['peak_mb'][name]:.0f}",
        ])
    print(table(["side", "questions/s", "quartiles", "ours is", "peak MB"], lines))
    print(f"products at {results['gflops']:.0f} GFLOP/s", file=sys.stderr)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    main()
