"""Our steps on a GPU: speed, share of the measured product rate, memory, and where the time goes.

    PYTHONPATH=. python bench/gpu.py --output .cache/gpu_check

It measures SFT, DPO, the reward model, PPO and greedy answers, each in bfloat16 (autocast) and in
float32 (no TF32). The models are the default one and one of SmolLM2-135M's shape, with random
weights. The data are random ids in the lengths of SQuAD. gpu.json and gpu.md in the folder are
rewritten after each part. A part that fails is counted and leaves its traceback there.
"""

import argparse
import contextlib
import json
import statistics
import time
import traceback
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

import main_squad
from bench.flops import step_flops
from bench.machine import machine, quartiles, table
from bench.pipes import ROOT
from bench.work import STOP, count_questions, random_trees
from main_squad import sft_backward
from src.data.windows import Tree
from src.inference.logprobs import completion_logps
from src.inference.sampling import generate
from src.model.heads import Critic, RewardModel
from src.model.model import build_model
from src.rl.algorithm_table import ALGORITHMS
from src.rl.models import Models
from src.rl.rewards import Scores, model_rewards
from src.rl.rollout import Prompts, Settings, sample_rollout
from src.rl.update import update_policy
from src.training.device import choose_device
from src.training.optimizer import make_optimizer, optimizer_step
from src.training.progress import tokens_read
from src.utils.constants import MICRO_BATCH_TOKENS
from train_dpo import dpo_backward
from train_reward_model import reward_backward

# The default of main_squad.py without its pointer, whose operations bench/flops.py does not count,
# and SmolLM2-135M's.
SHAPES = {
    "pico": {"vocab_size": 2048, "n_layer": 2, "n_embd": 128, "n_head": 4},
    "SmolLM2-135M": {
        "vocab_size": 49152, "n_layer": 30, "n_embd": 576, "n_head": 9, "n_kv_head": 3,
        "n_inner": 1536, "block_size": 2048, "rope_theta": 100000.0,
    },
    "tiny": {"vocab_size": 64, "n_layer": 2, "n_embd": 32, "n_head": 2, "n_kv_head": 1},
}
NEW_TOKENS = 16
SAMPLES = 2  # answers a question that PPO samples, for four epochs of one minibatch
STAGES = ("sft", "dpo", "reward", "ppo", "greedy")


class Case(NamedTuple):
    """One row of the table: contexts a step, or whose questions are answered at once. tokens: of a
    micro-batch. any_order: without the fixed order of sums that `backward` asks for.
    """

    shape: str
    stage: str
    dtype: str
    contexts: int
    tokens: int = MICRO_BATCH_TOKENS
    pointer: bool = False
    any_order: bool = False

    def name(self) -> str:
        """In words, as in the table."""
        more = [", pointer"] * self.pointer + [", sums in any order"] * self.any_order
        return f"{self.shape} {self.stage}{''.join(more)}"


def cases() -> Iterator[Case]:
    """From small to large, what matters most first."""
    for stage in STAGES:  # the scripts' own batches
        yield Case("pico", stage, "bfloat16", 8 if stage == "sft" else 16)
    for stage in STAGES:
        yield Case("SmolLM2-135M", stage, "bfloat16", 16)
    for stage in ("sft", "ppo", "greedy"):
        yield Case("pico", stage, "bfloat16", 16, pointer=True)
    yield Case("pico", "sft", "bfloat16", 8, any_order=True)
    yield Case("SmolLM2-135M", "sft", "bfloat16", 16, any_order=True)
    for stage in STAGES:
        yield Case("pico", stage, "float32", 8 if stage == "sft" else 16)
    for stage in STAGES:
        yield Case("SmolLM2-135M", stage, "float32", 16)
    for shape, contexts in (("pico", 256), ("SmolLM2-135M", 64)):  # large enough for a GPU
        for stage in STAGES:
            yield Case(shape, stage, "bfloat16", contexts, tokens=65_536)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="cuda", help="cuda, or cpu to try the script (default cuda)")
    add("--repeats", type=int, default=5, help="timed steps of a part (default 5)")
    add("--seconds", type=float, default=1e9, help="begin no part after so many")
    add("--tiny", action="store_true", help="small models and batches, to try the script")
    add("--only", default="", help="rows and profiles whose name has this text")
    add("--output", type=Path, default=ROOT / ".cache/gpu_check", help="folder of the results")
    return parser.parse_args(argv)


Step = Callable[[list[Tree]], list[Tree]]  # one step of a stage; returns the trees that it has read


def make_step(case: Case, device: torch.device) -> Step:
    """The scripts' own step with models of random weights."""
    shape = SHAPES[case.shape] | {"pointer": case.pointer}

    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return build_model("transformer", shape).to(device)

    args = Namespace(
        micro_batch_size=None, micro_batch_tokens=case.tokens, lm_weight=0.0, beta=0.1,
        label_smoothing=0.0, loss_type="sigmoid", nll_weight=0.0,
    )
    policy = model(0)
    stepped = {"reward": RewardModel(policy).to(device)} if case.stage == "reward" else {}
    reference = model(1).requires_grad_(False) if case.stage in ("dpo", "ppo") else None
    if case.stage == "ppo":
        reward = RewardModel(model(2)).to(device).requires_grad_(False)
        models = Models(policy, reference, Critic.of_reward(reward).to(device))
        stepped = models.trained()
    stepped = stepped or {"policy": policy}
    optimizer = None if case.stage == "greedy" else make_optimizer(stepped)

    def update(loss: float) -> dict[str, float]:
        optimizer_step(optimizer, 1e-5, 1.0, loss, skip_nonfinite=False)
        return {}

    def sft(trees: list[Tree]) -> list[Tree]:
        chosen = [(c, [(q, answers[:1]) for q, answers in qs]) for c, qs in trees]
        update(sft_backward(policy, chosen, STOP, args)["loss"])
        return chosen

    def dpo(trees: list[Tree]) -> list[Tree]:
        frozen = completion_logps(reference, trees, STOP).view(-1, 2)
        update(dpo_backward(policy, trees, frozen, STOP, args)["loss"])
        return trees

    def reward_model(trees: list[Tree]) -> list[Tree]:
        update(reward_backward(stepped["reward"], trees, STOP, args)["loss"])
        return trees

    def reward_of(trees: list[Tree], _asked: list) -> Scores:
        return Scores(model_rewards(reward, trees, STOP), {})

    def ppo(trees: list[Tree]) -> list[Tree]:
        settings = Settings(
            algorithm=ALGORITHMS["ppo"], eos_id=STOP, num_samples=SAMPLES,
            max_new_tokens=NEW_TOKENS, temperature=1.0, gamma=1.0, lam=0.95, value_clip_range=0.2,
            value_coef=0.1, beta=None, missing_eos_penalty=1.0, epochs=4, minibatches=1,
            micro_contexts=len(trees), seed=0, device=device, micro_tokens=case.tokens,
        )
        prompts = Prompts(_prompts(trees), [], [False] * count_questions(trees))
        rollout = sample_rollout(models, prompts, reward_of, 0.05, 0, settings)
        update_policy(models, rollout, 0, settings, update)
        return rollout.trees

    def greedy(trees: list[Tree]) -> list[Tree]:
        # No id stops, so that each answer has as many tokens.
        answers = generate(policy, _prompts(trees), eos_id=-1, max_new_tokens=NEW_TOKENS)
        ids = iter(answers.tokens.tolist())
        # An answer is counted with an EOS: here its last token stands for it.
        return [(c, [(q, [next(ids)[:-1]]) for q, _ in qs]) for c, qs in trees]

    return {"sft": sft, "dpo": dpo, "reward": reward_model, "ppo": ppo, "greedy": greedy}[
        case.stage
    ]


def _prompts(trees: list[Tree]) -> list:
    return [(context, [question for question, _ in questions]) for context, questions in trees]


def useful_flops(case: Case, trees: list[Tree]) -> int | None:
    """Operations of the step (bench/flops.py), PPO's and greedy answers all of full length; None
    with a pointer.
    """
    if case.pointer:
        return None
    config = build_config(case.shape)
    stage = "generate" if case.stage == "greedy" else case.stage
    return step_flops(config, stage, trees, NEW_TOKENS, SAMPLES)


def build_config(shape: str):
    """The configuration of a shape."""
    with torch.device("meta"):
        return build_model("transformer", SHAPES[shape]).config


class Card:
    """The device, its clock and its memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_gpu = device.type == "cuda"

    def wait(self) -> None:
        """Until all that was asked of the device is done."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Of one call, waiting before and after."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def product_tflops(self, dtype: torch.dtype, size: int) -> float:
        """TFLOP/s of square products on random data, the median of ten."""
        left, right = (torch.randn(size, size, device=self.device).to(dtype) for _ in range(2))
        out = torch.empty_like(left)

        def several() -> None:
            for _ in range(10):
                torch.mm(left, right, out=out)

        several()
        times = [self.seconds(several) for _ in range(10)]
        return 10 * 2e-12 * size**3 / statistics.median(times)

    def copy_gb_per_second(self, megabytes: int) -> float:
        """Bytes read plus bytes written of a large copy, the median of ten."""
        source = torch.randn(megabytes * 2**18, device=self.device)
        target = torch.empty_like(source)
        target.copy_(source)
        times = [self.seconds(lambda: target.copy_(source)) for _ in range(10)]
        return 2e-9 * source.numel() * 4 / statistics.median(times)

    def peak_mb(self) -> float | None:
        """Most memory since `forget_peak`, of tensors."""
        return torch.cuda.max_memory_allocated() / 2**20 if self.on_gpu else None

    def forget_peak(self) -> None:
        """Free what nothing holds, and count from here."""
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


@contextlib.contextmanager
def precision(case: Case, device: torch.device) -> Iterator[None]:
    """What `choose_device` sets for the case's dtype."""
    choose_device(Namespace(device=str(device), dtype=case.dtype))
    kept = main_squad.backward
    if case.any_order:
        main_squad.backward = lambda loss: loss.backward()
    try:
        yield
    finally:
        main_squad.backward = kept
        torch.set_autocast_enabled(device.type, False)


def measure(case: Case, card: Card, rates: dict[str, float], repeats: int) -> dict:
    """Medians of some steps, each on a batch of its own, after two to warm up on all batches."""
    vocab_size = SHAPES[case.shape]["vocab_size"]
    batches = [random_trees(case.contexts, vocab_size, seed) for seed in range(repeats)]
    with precision(case, card.device):
        card.forget_peak()
        step = make_step(case, card.device)
        for trees in (batches[0], batches[-1]):
            step(trees)
        seconds, tokens, flops = [], [], []
        for trees in batches:
            read: list[list[Tree]] = []
            seconds.append(card.seconds(lambda trees=trees, read=read: read.append(step(trees))))
            tokens.append(tokens_read(read[0]))
            flops.append(useful_flops(case, trees))
    found = {
        "case": case._asdict(),
        "seconds": quartiles(seconds),
        "questions_per_second": statistics.median(
            count_questions(b) / s for b, s in zip(batches, seconds, strict=True)
        ),
        "tokens_per_second": statistics.median(
            t / s for t, s in zip(tokens, seconds, strict=True)
        ),
        "peak_mb": card.peak_mb(),
    }
    if flops[0] is not None:
        use = [1e-12 * f / s for f, s in zip(flops, seconds, strict=True)]
        found["useful_tflops"] = statistics.median(use)
        found["share_of_product_rate"] = found["useful_tflops"] / rates[case.dtype]
    return found


# --- where the time goes ---

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def profile(case: Case, card: Card) -> dict:
    """One step: kernels launched, waits of the CPU for the GPU and the lines that wait, the share
    of the step in which the GPU computes, and the costliest kernels and operators.
    """
    trees = random_trees(case.contexts, SHAPES[case.shape]["vocab_size"], 0)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if card.on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with precision(case, card.device):
        step = make_step(case, card.device)
        for _ in range(3):
            step(trees)
        plain = statistics.median(card.seconds(lambda: step(trees)) for _ in range(3))
        lines = waiting_lines(lambda: step(trees)) if card.on_gpu else Counter()
        with torch.profiler.profile(activities=activities) as prof:
            traced = card.seconds(lambda: step(trees))
    events = prof.events()
    names = Counter(e.name for e in events)
    spans = sorted((e.time_range.start, e.time_range.end) for e in on_gpu(events))
    busy = covered(spans) * 1e-6
    averages = prof.key_averages()
    by_gpu = sorted(on_gpu(averages), key=lambda a: -a.self_device_time_total)[:15]
    by_cpu = sorted(averages, key=lambda a: -a.self_cpu_time_total)[:25]
    return {
        "case": case._asdict(),
        "seconds": plain,
        "seconds_while_traced": traced,
        "launches": sum(n for name, n in names.items() if "LaunchKernel" in name),
        "copies": sum(n for name, n in names.items() if name.startswith("cudaMemcpy")),
        "waits": {name: names[name] for name in WAITS if names[name]},
        "items": names["aten::_local_scalar_dense"],
        "gpu_busy_seconds": busy,
        "gpu_busy_share": busy / plain,
        "waiting_lines": lines.most_common(20),
        "kernels_ms": [
            (a.key[:90], a.count, a.self_device_time_total / 1000) for a in by_gpu
            if a.self_device_time_total
        ],
        "operators_cpu_ms": [
            (a.key[:60], a.count, a.self_cpu_time_total / 1000) for a in by_cpu
        ],
    }


def on_gpu(events: Iterable) -> list:
    """The events, or averages, of kernels and copies: neither the operators that launch them, nor
    annotations, whose spans hold the gaps between kernels.
    """
    cuda = torch.autograd.DeviceType.CUDA
    return [e for e in events if e.device_type == cuda and not e.is_user_annotation]


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of sorted spans.

    >>> covered([(0, 2), (1, 3), (5, 6)])
    4.0
    """
    total, reached = 0.0, -float("inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def waiting_lines(work: Callable[[], object]) -> Counter:
    """file:line -> how often the CPU waited there for the GPU, as torch notices it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{Path(w.filename).parent.name}/{Path(w.filename).name}:{w.lineno}"
        for w in caught if "synchroniz" in str(w.message)
    )


# --- results ---


class Report:
    """gpu.json and gpu.md in a folder, written anew after each part."""

    def __init__(self, folder: Path, about: dict) -> None:
        self.folder = folder
        self.found: dict = {
            "about": about, "rates": [], "rows": [], "profiles": [], "failed": [], "left_out": [],
        }
        folder.mkdir(parents=True, exist_ok=True)

    def part(self, name: str, work: Callable[[], dict], into: str) -> None:
        """Do one part; a failure is counted, with its traceback, and the rest goes on."""
        started = time.perf_counter()
        try:
            self.found[into].append({"name": name, **work()})
            said = "done"
        except Exception:  # whatever it is, the other parts are worth measuring
            self.found["failed"].append({"name": name, "traceback": traceback.format_exc()})
            traceback.print_exc()
            said = "FAILED"
        print(f"{name}: {said}, {time.perf_counter() - started:.1f} s", flush=True)
        self.write()

    def write(self) -> None:
        """Both files."""
        (self.folder / "gpu.json").write_text(json.dumps(self.found, indent=1))
        (self.folder / "gpu.md").write_text(self.text())

    def text(self) -> str:
        """The tables."""
        about = self.found["about"]
        parts = [", ".join(f"{k} {v}" for k, v in about.items()), table(HEADER, self._rows())]
        for one in self.found["profiles"]:
            share = f"{100 * one['gpu_busy_share']:.0f}%"
            waits = ", ".join(f"{k} {v}" for k, v in one["waits"].items()) or "none"
            parts.append(
                f"Profile of {one['name']}: {1000 * one['seconds']:.1f} ms, {one['launches']} "
                f"launches, {one['copies']} copies, waits: {waits}, items {one['items']}, GPU busy "
                f"{share}"
            )
            for title in ("waiting_lines", "kernels_ms", "operators_cpu_ms"):
                lines = (" ".join(f"{x:.2f}" if isinstance(x, float) else str(x) for x in row)
                         for row in one[title])
                parts.append("\n".join([f"{title}:", *(f"    {line}" for line in lines)]))
        parts += [f"FAILED {one['name']}\n{one['traceback']}" for one in self.found["failed"]]
        if self.found["left_out"]:
            parts.append(f"No time was left for: {', '.join(self.found['left_out'])}")
        return "\n\n".join(parts) + "\n"

    def _rows(self) -> list[list[str]]:
        return [
            [
                one["name"], one["case"]["dtype"], str(one["case"]["contexts"]),
                f"{1000 * one['seconds'][1]:.1f} ({1000 * one['seconds'][0]:.1f} to "
                f"{1000 * one['seconds'][2]:.1f})",
                f"{one['questions_per_second']:.0f}", f"{one['tokens_per_second']:.0f}",
                f"{one['useful_tflops']:.2f}" if "useful_tflops" in one else "",
                f"{100 * one['share_of_product_rate']:.1f}" if "useful_tflops" in one else "",
                "" if one["peak_mb"] is None else f"{one['peak_mb']:.0f}",
            ]
            for one in self.found["rows"]
        ]


HEADER = [
    "work", "dtype", "contexts", "ms a step", "questions/s", "tokens/s", "useful TFLOP/s",
    "% of product rate", "peak MB",
]
PROFILED = (
    Case("pico", "sft", "bfloat16", 8), Case("pico", "ppo", "bfloat16", 16),
    Case("pico", "greedy", "bfloat16", 16), Case("SmolLM2-135M", "sft", "bfloat16", 16),
    Case("SmolLM2-135M", "greedy", "bfloat16", 16),
    Case("pico", "sft", "bfloat16", 8, pointer=True),
)


def small(case: Case) -> Case:
    """The same with a tiny model and few contexts."""
    return case._replace(shape="tiny", contexts=min(3, case.contexts))


def main(argv: list[str] | None = None) -> int:
    """Measure; returns how many parts failed."""
    args = parse(argv)
    started = time.perf_counter()
    device = choose_device(Namespace(device=args.device, dtype="float32"))
    card = Card(device)
    size = 256 if args.tiny or not card.on_gpu else 8192
    about = machine()
    if card.on_gpu:
        about |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    report = Report(args.output, about)
    rates = {"bfloat16": float("nan"), "float32": float("nan")}

    def measure_rates() -> dict:
        for name in rates:
            rates[name] = card.product_tflops(getattr(torch, name), size)
        copy = card.copy_gb_per_second(4 if args.tiny else 1024)
        about.update({f"product TFLOP/s {k}": f"{v:.1f}" for k, v in rates.items()})
        about["copy GB/s"] = f"{copy:.0f}"
        return dict(rates)

    report.part("product rates", measure_rates, "rates")
    # Profiles after the scripts' own batches: they say what to mend.
    rows = [(case, "rows") for case in cases()]
    work = [*rows[:10], *((case, "profiles") for case in PROFILED), *rows[10:]]
    for case, into in work:
        name = case.name()
        if args.only not in f"{into} {name}":
            continue
        if time.perf_counter() - started > args.seconds:
            report.found["left_out"].append(f"{into} {name} {case.dtype}")
            continue
        case = small(case) if args.tiny else case
        if into == "rows":
            report.part(name, lambda c=case: measure(c, card, rates, args.repeats), into)
        else:
            report.part(name, lambda c=case: profile(c, card), into)
    report.write()
    print(report.text(), flush=True)
    return len(report.found["failed"])


if __name__ == "__main__":
    raise SystemExit(min(main(), 100))
