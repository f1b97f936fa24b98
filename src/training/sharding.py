"""--shard: parameters, gradients and optimizer state sharded over the ranks (torch's fully_shard).

A layer's parameters are unsharded while it computes. Files hold full tensors, so that every script
can read them.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from src.training.distributed import world_size

# Methods besides `forward` that compute with a backbone's parameters.
FORWARDS = (
    "read", "read_levels", "read_completions", "read_last", "read_trees", "prefill", "logits",
)


def shard(module: nn.Module, device: torch.device) -> None:
    """Shard the parameters of a policy, reward model or critic over the ranks, in place.

    Each linear layer is an FSDP unit. A backbone's embedding and norms are another, unsharded by
    its `forward` and the methods of FORWARDS. Gradients are summed, not averaged: losses are
    already divided by global counts.
    """
    # Imported here: these take as long as a third of torch, and few runs need them.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    # It warns of writes into its views; no code here writes in place where gradients flow.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    # The weight of a reward model's log-probability is in no unit and the same on every rank.
    warnings.filterwarnings("ignore", message="Found a non-scalar tensor with numel=1")
    mesh = init_device_mesh(device.type, (world_size(),))
    backbone = getattr(module, "backbone", module)
    # What a class inherits calls these, and must not count as a forward of its own.
    own = [name for name in FORWARDS if name in vars(type(backbone))]
    for part in module.modules():
        if isinstance(part, nn.Linear):
            fully_shard(part, mesh=mesh)
    fully_shard(backbone, mesh=mesh)
    for name in own:
        register_fsdp_forward_method(backbone, name)
    for part in filter(lambda part: isinstance(part, FSDPModule), module.modules()):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum


def full_tensors(value: Any) -> Any:
    """A state dict with every sharded tensor unsharded; all ranks must call it."""
    if hasattr(value, "full_tensor"):  # a DTensor
        return value.full_tensor()
    if isinstance(value, dict):
        return type(value)((key, full_tensors(part)) for key, part in value.items())
    if isinstance(value, list):
        return [full_tensors(part) for part in value]
    return value


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """A full tensor sharded like `like`; unchanged if that is not sharded or of another shape."""
    if not hasattr(like, "full_tensor") or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements)


def shard_optimizer_state(state: dict, optimizer: torch.optim.Optimizer) -> dict:
    """An optimizer's state dict of full tensors, sharded like its parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(hasattr(p, "full_tensor") for p in parameters):
        return state
    moments = {
        number: {name: shard_like(value, parameters[number]) for name, value in of_one.items()}
        for number, of_one in state["state"].items()
    }
    return {**state, "state": moments}
