"""Ranks: the processes that torchrun starts, each with its share of one global batch.

Every rank draws the same batch, which (seed, epoch, step) alone decides, and works through its own
share of the trees. Losses are divided by the counts of the whole batch, which every rank can see,
so that gradients and figures only have to be summed. Without torchrun there is one rank.
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

# A dead rank closes its connections, which the others see at once; this is for one that hangs.
# An evaluation's share may take one rank longer than another, a step's never by minutes.
TIMEOUT = timedelta(minutes=10)


def join() -> None:
    """Meet the other ranks; nothing without torchrun or a second time.

    gloo carries what is on the CPU (objects, figures), nccl what is on a GPU (gradients).
    """
    if world_size() > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
        atexit.register(_leave)


def _leave() -> None:
    """Let gloo's threads come to rest before the interpreter ends.

    To drop the tensors of its last transfer a thread has to hold the interpreter for a moment; one
    that asks for it when it is ending aborts the process, which is done (seen in torch 2.13).
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
    """Rank 0 goes through the block first, the others together after it: it fills the caches."""
    if rank():
        gather(None)
    yield
    if not rank():
        gather(None)


def all_sum(figures: dict[str, Tensor | float]) -> dict[str, float]:
    """Each figure summed over the ranks, as a plain number: one transfer, one reduction.

    All ranks must give the same names in the same order.
    """
    tensors = [torch.as_tensor(value).detach().double() for value in figures.values()]
    device = max((t.device for t in tensors), key=lambda d: d.type == "cuda")
    values = torch.stack([t.to(device) for t in tensors]).cpu()
    if world_size() > 1:
        dist.all_reduce(values)
    return dict(zip(figures, values.tolist(), strict=True))


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace each gradient by its sum over the ranks, in one reduction of all of them end to end.

    Sharded parameters (--shard) are left alone: their gradients were summed as they came.
    """
    # full_tensor: what a DTensor has and a plain tensor has not.
    gradients = [p.grad for p in parameters if p.grad is not None and not hasattr(p, "full_tensor")]
    if world_size() == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def partition(costs: Sequence[float], ranks: int) -> list[range]:
    """The items, of such costs, that each rank works on: consecutive ones of about equal sums.

    Consecutive, so that what the ranks found is in the items' order when put end to end. A rank may
    have none.
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
    """This rank's items, at most `size` (None: any number) and about `tokens` of their costs in
    memory at a time.

    Every rank gets as many parts, empty ones at the end: where parameters are sharded, all ranks
    must call the model equally often.
    """
    costs = [cost(item) for item in items]
    parts = [
        [share[part.start : part.stop]
         for part in within(costs[share.start : share.stop], size, tokens)]
        for share in partition(costs, world_size())
    ]  # fmt: skip
    mine = parts[rank()]
    for number in range(max(1, *map(len, parts))):
        part = mine[number] if number < len(mine) else range(0)
        yield items[part.start : part.stop]


def within(costs: Sequence[float], size: int | None, tokens: float) -> list[range]:
    """Consecutive items in groups of at most `size` and of costs of at most `tokens` together; one
    that costs more is alone.
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
    """The whole parameters of modules on every rank for the length of the block, if --shard divided
    them.

    For sampling and evaluation, where a rank calls the model as often as its own rows need: inside
    the block no rank waits for another.
    """
    # unshard: what fully_shard gives a module, and no other has.
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
    """Which of the trees `map_over_ranks` gives to this rank."""
    return partition([tree_tokens(item) for item in items], world_size())[rank()]


def map_over_ranks(model: nn.Module, items: Sequence, work: Callable[[Sequence], Any]) -> list:
    """What `work`, which calls the model, makes of each rank's share of trees: one result a rank,
    in their order, on every rank. For what needs no gradient.
    """
    if world_size() == 1:
        return [work(items)]
    mine = rank_partition(items)
    with unsharded(model):
        result = work(items[mine.start : mine.stop])
    return gather(result)
