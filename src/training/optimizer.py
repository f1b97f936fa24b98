"""Optimizer, learning-rate schedule, the gradient and one optimizer step."""

import math

import torch
from torch import Tensor, nn

from src.training.distributed import sum_gradients
from src.training.run import Run
from src.training.sharding import full_tensors
from src.utils.exit_handling import NonFiniteError
from src.utils.progress_bar import say


def make_optimizer(
    modules: dict[str, nn.Module],
    weight_decay: float = 0.0,
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW over the parameters that are not frozen; decay on matrices only, never on embeddings,
    norms or biases.

    eps: PPO takes 1e-5 (Huang et al., "The N Implementation Details of RLHF with PPO", on Adam's
    epsilon): a parameter whose gradient is nearly 0 then stays put. The other stages take 1e-8:
    gradients of attention are that small early in training.
    """
    decayed, free = [], []
    for module in modules.values():
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            matrix = parameter.ndim >= 2 and "embedding" not in name
            (decayed if matrix else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    # fused: one pass over the weights instead of several; the learning rate is set at every step.
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=eps, fused=True)


def learning_rate(
    step: int, max_steps: int, warmup: float, peak: float, hold: float = 0.0
) -> float:
    """Warm-up, stable phase, decay. The rate rises linearly from 0 to `peak` over the share
    `warmup` of the run, in whole steps. It is constant up to the share `hold`, then falls linearly
    to 0 at the end. step counts from 0.
    """
    rises = int(warmup * max_steps + 0.5)
    if step < rises:
        return peak * (step + 1) / rises
    falls = max(rises, hold * max_steps)
    return peak * min(1.0, (max_steps - step) / max(1, max_steps - falls))


def backward(loss: Tensor) -> None:
    """loss.backward(); on a GPU with each sum in a fixed order, so that a resumed run ends as one
    in one go. Needs `choose_device` before it.
    """
    if loss.device.type != "cuda":
        loss.backward()
        return
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads any
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        loss.backward()
    finally:
        torch.use_deterministic_algorithms(before)


def optimizer_step(
    optimizer: torch.optim.Optimizer,
    rate: float,
    grad_clip: float,
    loss: float,
    skip_nonfinite: bool,
) -> float:
    """Sum the gradients over the ranks, clip, step at learning rate `rate`, clear; returns the norm
    before clipping.

    Raises NonFiniteError, with the weights untouched, when the loss or a gradient is not finite;
    with skip_nonfinite the step is skipped, with a message.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sum_gradients(parameters)
    # Waits for a GPU: what is not finite must not reach the weights.
    norm = float(full_tensors(nn.utils.clip_grad_norm_(parameters, grad_clip, foreach=True)))
    if not (math.isfinite(norm) and math.isfinite(loss)):
        optimizer.zero_grad(set_to_none=True)
        what = "gradient" if math.isfinite(loss) else "loss"
        message = f"the {what} is not finite (loss {loss}, gradient norm {norm})"
        if not skip_nonfinite:
            raise NonFiniteError(message)
        say(f"{message}: step left out")
        return norm
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def scheduled_step(
    run: Run, optimizer: torch.optim.Optimizer, step: int, max_steps: int, loss: float
) -> dict[str, float]:
    """`optimizer_step` with the learning rate of the schedule; returns metrics to log."""
    args = run.args
    rate = learning_rate(step, max_steps, args.warmup, args.lr, args.hold)
    norm = optimizer_step(optimizer, rate, args.grad_clip, loss, args.skip_nonfinite)
    return {"learning_rate": rate, "gradient_norm": norm}
