"""Ours against TRL and transformers on the same work, taking turns in one run.

    PYTHONPATH=. python bench/vs_trl.py --dataset squad_folder

The sides of a stage:

- ours;
- ours with --compile, where it trains;
- ours without sharing: each question below a context of its own;
- the peer on the same batches, grouped by context;
- the peer on the same questions in random order.

All have the same weights, shape, ids, questions a step and threads, in float32, with the loss on
the answers only. The loss of the first step has to agree. Every side is a process of its own that
idles while another computes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import venv
from pathlib import Path

from bench.flops import step_flops
from bench.learning import describe, race
from bench.machine import machine, quartiles, table
from bench.pipes import CLOCKS, ROOT, Worker
from bench.work import (
    CACHE,
    NEW_TOKENS,
    SHAPE,
    TINY,
    Work,
    count_questions,
    make_work,
    random_work,
    write_work,
)
from src.model.transformer.transformer import TransformerConfig
from src.utils.exit_handling import command

TORCH = "torch==2.13.0"
# The peers' environments: the newest of the registry, and the last TRL of the kind that had PPO.
PEERS = {".venv-trl": ["trl", "transformers"], ".venv-trl-ppo": ["trl==1.10.0"]}
STAGES = ("sft", "dpo", "reward", "ppo", "generate")
UNIT = {"sft": "questions", "dpo": "pairs", "reward": "pairs", "ppo": "episodes",
        "generate": "answers"}
# Side -> its process, and the batches that it is given.
SIDES = {
    "ours": "ours", "ours, --compile": "compiled", "ours, nothing shared": "alone",
    "peer, by context": "peer", "peer, random order": "peer",
}
TURNS = (
    "ours", "peer, by context", "ours, --compile", "ours, nothing shared", "ours",
    "peer, random order",
)
WARM_UP = 4  # steps that a compiled side takes first: shapes that it has not met compile again
TOLERANCE = 1e-3


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dataset", default="pico", help="pico, the path of SQuAD data, or random: random ids in "
        "SQuAD's lengths, 5 questions a context (default pico)")
    add("--difficulty", type=int, default=5, help="of pico, 1 to 5 (default 5, long contexts)")
    add("--stages", nargs="+", choices=STAGES, default=STAGES, help="default: all five")
    add("--repeats", type=int, default=5, help="timed steps of every side (default 5)")
    add("--questions", type=int, default=16, help="a step (default 16)")
    add("--samples", type=int, default=1, help="answers that PPO samples to a question (default 1)")
    add("--threads", type=int, default=2, help="of every side (default 2)")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: processor seconds, for a busy "
        "machine, with --threads 1 only (default wall)")
    add("--device", default="cpu", help="of both sides: cpu or cuda (default cpu)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16: mixed "
        "precision on both sides; their losses then agree to 5%% (default float32)")
    add("--peer_python", type=Path, help="a Python with trl 1.10.0 in it, for a machine without a "
        "package index (default: environments of its own)")
    add("--no_compile", action="store_true", help="without the side with --compile")
    add("--rate", type=float, default=1e-4, help="learning rate of all (default 1e-4)")
    add("--tiny", action="store_true", help="a model of 2 layers, width 32, to try the script")
    add("--learning", type=int, default=0, metavar="STEPS", help="instead of the stages: seconds "
        "to the held-out loss that SFTTrainer has after so many steps")
    add("--output", type=Path, default=ROOT / "runs/bench/vs_trl.json", help="JSON of the figures")
    return parser.parse_args(argv)


def environment(name: str) -> Path:
    """The Python of a peer's environment, made on the first call; torch first, so that nothing
    replaces it.
    """
    python, complete = ROOT / name / "bin" / "python", ROOT / name / "complete"
    if not complete.exists():
        print(f"setting up {name}", file=sys.stderr)
        venv.create(ROOT / name, with_pip=True)
        constraint = ROOT / name / "constraint.txt"
        constraint.write_text(f"{TORCH}\n")
        install = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*install, TORCH], check=True)
        subprocess.run([*install, "-c", str(constraint), *PEERS[name]], check=True)
        complete.touch()
    return python


def samples_of(stage: str, args: argparse.Namespace) -> int:
    """Answers of a question that a step works on as examples of their own."""
    return args.samples if stage == "ppo" else 1


def start(
    stage: str, args: argparse.Namespace, folder: Path, order: list,
    names: tuple[str, ...] = ("ours", "compiled", "alone", "peer"),
) -> dict[str, Worker]:
    """The processes of a stage: ours, ours without sharing, the peer with its order of batches."""
    settings = {
        "folder": str(folder), "stage": stage, "threads": args.threads, "rate": args.rate,
        "clock": args.clock, "questions": args.questions, "samples": samples_of(stage, args),
        "order": order, "device": args.device, "dtype": args.dtype,
    }
    own = Path(sys.executable)
    peer = args.peer_python
    peer = peer or environment(".venv-trl-ppo" if stage == "ppo" else ".venv-trl")
    workers = {}
    for name, python, module in (
        ("ours", own, "bench.ours"),
        ("compiled", own, "bench.ours"),
        ("alone", own, "bench.ours"),
        ("peer", peer, "bench.peer"),
    ):
        log = folder / f"{stage}_{name}.log"
        how = {"shared": name != "alone", "compile": name == "compiled"}
        if name in names:
            workers[name] = Worker(name, python, module, log, settings | how)
    return workers


def same_work(
    stage: str, first: dict[str, dict], ours: Worker, dtype: str
) -> dict[str, float]:
    """How far the sides are apart on the first step; raises SystemExit where the work differs."""
    if stage == "generate":
        pairs = zip(first["ours"]["answers"], first["peer"]["answers"], strict=True)
        # Greedy paths part where two logits tie to rounding, which random weights make rare.
        apart = statistics.mean(mine != theirs for mine, theirs in pairs)
        limit, what = 0.13, "share of answers that differ"
    elif stage == "ppo":
        # Sampled answers differ, so ours works out what TRL reports of its own samples.
        theirs = first["peer"]["logs"]["objective/kl"]
        mine = ours.ask(do="kl", answers=first["peer"]["answers"])["kl"]
        apart, limit, what = abs(mine - theirs), TOLERANCE * max(1, abs(theirs)), "KL in nats"
    else:
        apart = abs(first["ours"]["loss"] - first["peer"]["loss"])
        limit, what = TOLERANCE, "loss in nats"
    if dtype == "bfloat16":  # three digits; a greedy path parts from another where two are near
        size = abs(theirs) if stage == "ppo" else abs(first["peer"].get("loss") or 1)
        limit = 1.0 if stage == "generate" else max(0.05, 0.05 * size)
    if stage != "ppo" and stage != "generate":
        apart = max(apart, abs(first["ours"]["loss"] - first["alone"]["loss"]))
    print(f"{stage}: first step, {what}: apart by {apart:.2e}", file=sys.stderr)
    if not apart <= limit:
        raise SystemExit(f"{stage}: {what} apart by {apart}, more than {limit}: not the same work")
    return {what: apart}


def measure(stage: str, args: argparse.Namespace, folder: Path, work: Work) -> dict:
    """One stage: a first step that must agree, then rounds in which the sides take turns.

    limit: what our side would reach if its useful operations ran at the rate of a large product
    and nothing else took time.
    """
    rounds = range(1, args.repeats + 1)
    order = [("grouped", 0)]
    order += [step for n in rounds for step in (("grouped", n), ("shuffled", n - 1))]
    compiled = stage != "generate" and not args.no_compile
    sides = [side for side in SIDES if compiled or SIDES[side] != "compiled"]
    workers = start(stage, args, folder, order, tuple(SIDES[side] for side in sides))
    first = {
        name: worker.ask(do="step", batches="grouped", number=0)
        for name, worker in workers.items()
    }
    agreed = same_work(stage, first, workers["ours"], args.dtype)
    if "compiled" in workers:
        for number in range(1, min(WARM_UP, args.repeats + 1)):
            workers["compiled"].ask(do="step", batches="grouped", number=number)
    rates: dict[str, list[float]] = {side: [] for side in sides}
    products: list[dict[str, float]] = []
    for number in rounds:
        for side in (side for side in TURNS if side in sides):
            found = workers[SIDES[side]].ask(do="step", batches="grouped", number=number)
            rates[side].append(found["examples"] / found["seconds"])
        products.append(workers["ours"].ask(do="rate"))
    peaks = {name: worker.close()["peak_mb"] for name, worker in workers.items()}
    gflops = {k: statistics.median(p[k] for p in products) for k in products[0]}
    config = TransformerConfig(**(TINY if args.tiny else SHAPE))
    samples = samples_of(stage, args)
    limits = [
        1e9 * gflops["square"] * count_questions(work.grouped[n]) * samples
        / step_flops(config, stage, work.grouped[n], NEW_TOKENS, samples)
        for n in rounds
    ]
    return {
        "limit": statistics.median(limits),
        "unit": UNIT[stage],
        "first_step_apart": agreed,
        "rates": rates,
        "peak_mb": {side: peaks[SIDES[side]] for side in sides},
        "gflops": gflops,
        "peer_versions": workers["peer"].hello,
    }


def rows_of(stage: str, result: dict) -> list[list[str]]:
    """The stage's lines of the table."""
    rows = []
    ours = statistics.median(result["rates"]["ours"])
    for side in result["rates"]:
        low, middle, high = quartiles(result["rates"][side])
        memory = result["peak_mb"][side]
        rows.append([
            f"{stage}, {result['unit']}/s", side, f"{middle:.2f}", f"{low:.2f} to {high:.2f}",
            f"{ours / middle:.1f}x", f"{memory:.0f}",
            f"{memory / result['peak_mb']['ours']:.1f}x",
        ])
    limit = result["limit"]
    rows.append([f"{stage}, {result['unit']}/s", "ours at the product rate", f"{limit:.2f}", "",
                 f"{ours / limit:.2f}x", "", ""])
    return rows


def write(results: dict, output: Path) -> None:
    """The JSON of the figures."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1))


@command
def main(argv: list[str] | None = None) -> dict:
    """Measure what the flags ask for; print the table and write the JSON."""
    args = parse(argv)
    folder = CACHE / "work"
    results: dict = {"machine": machine() | {"threads": args.threads}}
    results["flags"] = {k: str(v) for k, v in vars(args).items()}
    print(json.dumps(results["machine"]), file=sys.stderr)
    batches = 1 + max(args.repeats, 2 * args.learning)
    if args.dataset == "random":
        work = random_work(batches, args.questions)
    else:
        work = make_work(args.dataset, args.difficulty, batches, args.questions)
    write_work(folder, work, TINY if args.tiny else SHAPE)
    contexts = statistics.mean(len(trees) for trees in work.grouped)
    results["questions_per_context"] = args.questions / contexts
    print(f"{args.questions / contexts:.2f} questions a context", file=sys.stderr)
    if args.learning:
        order = [("shuffled", number) for number in range(args.learning)]
        workers = start("sft", args, folder, order, ("ours", "peer"))
        results["learning"] = race(workers["ours"], workers["peer"], args.learning)
        print(describe(results["learning"]))
    else:
        results["stages"] = {}
        lines = []
        for stage in args.stages:
            result = results["stages"][stage] = measure(stage, args, folder, work)
            lines += rows_of(stage, result)
            versions = ", ".join(f"{k} {v}" for k, v in result["peer_versions"].items())
            rates = ", ".join(f"{k} {v:.0f}" for k, v in result["gflops"].items())
            print(f"{stage}: peer {versions}; products, GFLOP/s: {rates}", file=sys.stderr)
            write(results, args.output)  # what is measured is not lost with the next stage
        header = ["work", "side", "median", "quartiles", "ours is", "peak MB", "of ours"]
        print(table(header, lines))
    write(results, args.output)
    return results


if __name__ == "__main__":
    main()
