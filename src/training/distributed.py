"""Ranks: the processes that torchrun starts, each with its partition of one global batch.

Every rank draws the same batch, which depends on (seed, epoch, step) only, and computes its own
partition of the trees. Losses are divided by the counts of the global batch, so that gradients and
metrics only have to be summed. Without torchrun there is one rank.
"""

import atexit
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from src.data.windows import tree_tokens
from src.utils.constants import MICRO_BATCH_TOKENS
from src.utils.ranks import rank, world_size

# For a rank that hangs; a dead rank closes its connections, which the others notice at once.
# Ranks may differ by minutes in an evaluation, not in a step.
TIMEOUT = timedelta(minutes=10)


def join() -> None:
    """Initialise the process group; does nothing without torchrun or a second time.

    gloo transfers what is on the CPU (objects, metrics), nccl what is on a GPU (gradients).
    """
    if world_size() > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
        atexit.register(_leave)


def _leave() -> None:
    """Let gloo's threads finish before the interpreter ends.

    A thread needs the interpreter lock to free the tensors of its last transfer. If it requests the
    lock during shutdown, it aborts the process, whose work is done (seen in torch 2.13).
    """
    time.sleep(0.2)
    if dist.is_initialized():
        dist.destroy_process_group()


def gather(value: Any) -> list:
    """Every rank's value, in the order of the ranks, on every rank. Values are pickled: plain ones,
    and tensors on the CPU.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Rank 0 runs the block first and fills the caches; then the other ranks run it."""
    if rank():
        gather(None)
    yield
    if not rank():
        gather(None)


def all_sum(metrics: dict[str, Tensor | float]) -> dict[str, float]:
    """Each metric summed over the ranks, as a plain number: one transfer, one reduction.

    All ranks must give the same names in the same order.
    """
    tensors = [torch.as_tensor(value).detach() for value in metrics.values()]
    tensors = [(t.cpu() if t.device.type == "mps" else t).double() for t in tensors]  # no float64
    device = max((t.device for t in tensors), key=lambda d: d.type == "cuda")
    values = torch.stack([t.to(device) for t in tensors]).cpu()
    if world_size() > 1:
        dist.all_reduce(values)
    return dict(zip(metrics, values.tolist(), strict=True))


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace each gradient by its sum over the ranks, in one reduction of a flat tensor.

    Sharded parameters (--shard) are left out: their gradients are summed in the backward pass.
    """
    # Only a DTensor has full_tensor.
    gradients = [p.grad for p in parameters if p.grad is not None and not hasattr(p, "full_tensor")]
    if world_size() == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def partition(costs: Sequence[float], ranks: int) -> list[range]:
    """Split items of such costs into one range a rank, with about equal sums of costs.

    Ranges are consecutive, so that concatenated results are in the order of the items. A range may
    be empty.
    """
    ends = list(accumulate(costs, initial=0))
    cuts = [
        min(range(len(ends)), key=lambda i, at=ends[-1] * r / ranks: abs(ends[i] - at))
        for r in range(1, ranks)
    ]
    return [range(a, b) for a, b in zip([0, *cuts], [*cuts, len(costs)], strict=True)]


def micro_batches(
    items: Sequence,
    size: int | None,
    cost: Callable[[Any], float] = tree_tokens,
    tokens: float = MICRO_BATCH_TOKENS,
) -> Iterator[Sequence]:
    """This rank's items in micro-batches of at most `size` (None: no limit) and about `tokens`
    of cost.

    Every rank gets the same number of micro-batches, the last ones may be empty: with sharded
    parameters all ranks must call the model equally often.
    """
    costs = [cost(item) for item in items]
    parts = [
        [share[part.start : part.stop]
         for part in within(costs[share.start : share.stop], size, tokens)]
        for share in partition(costs, world_size())
    ]
    mine = parts[rank()]
    for number in range(max(1, *map(len, parts))):
        part = mine[number] if number < len(mine) else range(0)
        yield items[part.start : part.stop]


def within(costs: Sequence[float], size: int | None, tokens: float) -> list[range]:
    """Ranges of consecutive items: at most `size` items and a total cost of at most `tokens`. An
    item that costs more is alone.
    """
    groups, start, total = [], 0, 0.0
    for i, cost in enumerate(costs):
        if i > start and (i - start == size or total + cost > tokens):
            groups.append(range(start, i))
            start, total = i, 0.0
        total += cost
    return [*groups, range(start, len(costs))] if costs else []


@contextlib.contextmanager
def unsharded(*modules: nn.Module | None) -> Iterator[None]:
    """Unshard the parameters of modules on every rank for the length of the block.

    For sampling and evaluation, in which the ranks call the model a different number of times:
    inside the block no rank waits for another.
    """
    # Only modules that fully_shard wrapped have unshard.
    units = [u for m in modules if m is not None for u in m.modules() if hasattr(u, "unshard")]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(True, recurse=False)


def rank_partition(items: Sequence) -> range:
    """The range of trees that `map_over_ranks` gives to this rank."""
    return partition([tree_tokens(item) for item in items], world_size())[rank()]


def map_over_ranks(model: nn.Module, items: Sequence, work: Callable[[Sequence], Any]) -> list:
    """Apply `work`, which calls the model, to each rank's partition of the trees; returns the
    results of all ranks, in order, on every rank. Without gradients.
    """
    if world_size() == 1:
        return [work(items)]
    mine = rank_partition(items)
    with unsharded(model):
        result = work(items[mine.start : mine.stop])
    return gather(result)
