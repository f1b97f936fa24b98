"""The training loop: compile and shard the modules, iterate over steps, save and restore state.
"""

import argparse
import copy
import functools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from src.model.lora import add_lora
from src.training.distributed import gather, rank, world_size
from src.training.progress import Progress
from src.training.run import Run
from src.training.sharding import full_tensors, shard, shard_like, shard_optimizer_state
from src.utils.errors import UserError
from src.utils.payload import save_payload
from src.utils.progress_bar import say


def prepare(
    modules: dict[str, nn.Module], args: argparse.Namespace, device: torch.device
) -> dict[str, nn.Module]:
    """Make ready the modules to be trained, in place, as --lora_rank, --compile and --shard say.

    Make copies of a module before this call: a copy of a compiled module runs the original.
    """
    if args.shard and world_size() == 1:
        raise UserError(
            "--shard given to one process, expected several to divide the model among: "
            "torchrun --nproc_per_node N"
        )
    for other in ("compile", "lora_rank"):
        if args.shard and getattr(args, other):
            raise UserError(f"--shard and --{other} given, expected one: not made to go together")
    for module in modules.values():
        if args.lora_rank:
            add_lora(module, args.lora_rank)
        backbone = getattr(module, "backbone", module)
        if args.compile:
            # A transformer has a forward pass for training and scoring alone, apart from sampling's
            # single-token steps. The other models use `forward` for both.
            plain = getattr(backbone, "base", backbone)  # the model below a pointer
            name = "read_packed" if hasattr(plain, "read_packed") else "forward"
            backbone.in_rows = True  # parts are other calls for each batch
            setattr(plain, name, torch.compile(getattr(plain, name), dynamic=True))
        if args.shard:
            shard(module, device)
    return modules


def steps(
    run: Run,
    max_steps: int,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    several_updates: bool = False,
) -> Iterator[int]:
    """Yield the remaining steps. After each, save last.pt when due, and stop if requested.

    modules: everything with weights that training changes. progress: what the loop changes in place
    beside them; saved and restored too. several_updates: a step updates the weights more than once,
    so a copy from before the step is kept, in case it fails, unless last.pt holds that state.
    """
    first = restore(run, modules, optimizer, progress)
    for step in range(first, max_steps):
        state = _state(modules, optimizer, progress)
        if several_updates and run.end.saved_step < step:
            state = copy.deepcopy(state)
        run.end.begin_step(step + 1, functools.partial(_write_last, run, step, state))
        yield step
        done = step + 1
        run.end.agree()
        if done % run.args.save_every == 0 or done == max_steps or run.end.asked:
            save_last(run, done, modules, optimizer, progress)
        run.end.raise_if_asked()
    run.end.begin_step(max_steps, None)
    run.end.agree()
    run.end.raise_if_asked()  # a signal that came between these lines


def due(run: Run, step: int) -> bool:
    """Whether to evaluate after this step (after the last step an evaluation always follows)."""
    every = run.args.eval_every
    return bool(every) and (step + 1) % every == 0 and step + 1 < run.args.max_steps


def save_last(
    run: Run,
    step: int,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write last.pt: all state of the next step. All ranks must call it; rank 0 writes."""
    _write_last(run, step, _state(modules, optimizer, progress))


def _state(
    modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, progress: Progress
) -> dict[str, Any]:
    """All state that training changes. The tensors are not copied."""
    return {
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizer": optimizer.state_dict(),
        "rng": rng_state(),
        "progress": dict(vars(progress)),
    }


def _write_last(run: Run, step: int, state: dict[str, Any]) -> None:
    run_fields = {
        "stage": run.stage, "step": step, "args": vars(run.args), "asked": run.asked,
        "inputs": run.inputs, "ranks": world_size(), "metrics_bytes": run.log.position(),
    }
    payload = {**run_fields, **full_tensors(state)}
    if not rank():
        save_payload(run.folder / "last.pt", payload)
    gather(None)  # no rank continues, or ends, before the file is written
    run.end.saved_step = step


def restore(
    run: Run,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> int:
    """Restore what `save_last` wrote, if the run is resumed; returns the number of steps done."""
    if run.last is None:
        return 0
    try:
        for name, module in modules.items():
            stored, own = run.last["modules"][name], module.state_dict()
            if not all(torch.isfinite(w).all() for w in stored.values()):
                raise ValueError(f"the weights of {name} are not finite")
            module.load_state_dict({k: shard_like(w, own.get(k)) for k, w in stored.items()})
        _check_optimizer(run.last["optimizer"], optimizer)
        optimizer.load_state_dict(shard_optimizer_state(run.last["optimizer"], optimizer))
        set_rng_state(run.last["rng"])
        progress.restore(run.last["progress"])
    except (
        RuntimeError, ValueError, KeyError, TypeError, AttributeError, OverflowError
    ) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"{run.folder / 'last.pt'} does not fit this run's models ({reason}), "
            "give the parent it started from or start anew with --overwrite"
        ) from None
    # Copied by now: to the end of the run they would take as much memory as the models.
    del run.last["modules"], run.last["optimizer"]
    step = run.last["step"]
    say(f"{run.folder}: resumed after step {step}")
    return step


def _check_optimizer(stored: dict, optimizer: torch.optim.Optimizer) -> None:
    """ValueError unless a stored state fits this optimizer. torch checks the number of parameters
    only, and would fail in the middle of a step.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for old, own in zip(stored["param_groups"], optimizer.param_groups, strict=True):
        for name, value in own.items():
            if type(old[name]) is not type(value):
                raise ValueError(f"the optimizer's {name} is {str(old[name])[:40]}")
    for number, moments in stored["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters):
            raise ValueError(f"the optimizer's state is of a parameter {str(number)[:40]}")
        for name, shape in (
            ("exp_avg", parameters[number].shape),
            ("exp_avg_sq", parameters[number].shape),
            ("step", ()),
        ):
            if moments[name].shape != shape or not torch.isfinite(moments[name]).all():
                raise ValueError(f"the optimizer's {name} of parameter {number}")


def rng_state() -> dict[str, Any]:
    """The states of all random number generators, as plain values and tensors.

    A stage draws from its own streams (src/data/random_streams.py) and from torch's generator.
    Python's and numpy's states are kept for a reward function of the user's. With several ranks
    only rank 0's are kept, so a reward function that draws does not resume exactly on the others.
    """
    version, words, spare = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": [version, list(words), spare],
        "numpy": [name, keys.tolist(), *rest],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Continue drawing from where `rng_state` was called."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():  # perhaps with fewer GPUs than where the state was taken
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    version, words, spare = state["python"]
    random.setstate((version, tuple(words), spare))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
