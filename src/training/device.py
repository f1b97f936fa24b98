"""The device and the precision of a run."""

import argparse
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from src.utils.errors import RankError, UserError
from src.utils.ranks import world_size

EXPECTED = "expected auto, cpu, cuda, cuda:N or mps"

# The width from which a CPU gains by bfloat16: at 128 it trains no faster, at 576 1.8 times.
WIDE = 512


def choose_device(args: argparse.Namespace) -> torch.device:
    """The device of --device. Also sets the autocast dtype of --dtype for this thread, and on a
    GPU what `optimizer.backward` needs. On other devices --dtype auto is float32 until
    `choose_precision` knows the model.

    Raises UserError for a device that there is not.
    """
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        # The GPU of this rank, as torchrun numbers them on a machine.
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if world_size() > 1 else "cuda"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} given, {EXPECTED}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name} given, but torch finds no CUDA device, use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name} given, but torch finds no Apple GPU, use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name} given, {EXPECTED}")
    if device.type == "cuda" and device.index is not None:
        if device.index >= (count := torch.cuda.device_count()):
            raise RankError(
                f"--device {name} given, but torch finds {count} CUDA devices, numbered from 0: "
                "name one of them, or start fewer ranks"
            )
        torch.cuda.set_device(device)
    if device.type == "cuda":
        # Read when the first product is computed.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if args.dtype == "auto":
            has_it = torch.cuda.is_bf16_supported(including_emulation=False)
            args.dtype = "bfloat16" if has_it else "float32"
    _autocast(device, args.dtype == "bfloat16")
    return device


def choose_precision(args: argparse.Namespace, device: torch.device, model: nn.Module) -> None:
    """Settle what `choose_device` left open, a --dtype auto that is not a GPU's: bfloat16 on a CPU
    that multiplies it if the model is wide enough to gain, else float32.
    """
    if args.dtype == "auto":
        wide = device.type == "cpu" and model.width >= WIDE
        args.dtype = "bfloat16" if wide and cpu_multiplies_bfloat16() else "float32"
        _autocast(device, args.dtype == "bfloat16")


def in_this_precision(call: Callable[..., Any], device: torch.device | str) -> Callable[..., Any]:
    """`call` for other threads, in the precision of this one: torch keeps autocast by thread."""
    kind = torch.device(device).type
    on = torch.is_autocast_enabled(kind)

    def called(*args: Any) -> Any:
        with torch.autocast(kind, torch.bfloat16, enabled=on, cache_enabled=False):
            return call(*args)

    return called


def cpu_multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16."""
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def _autocast(device: torch.device, on: bool) -> None:
    """This thread's products in bfloat16, or not. Scalar heads disable autocast
    (src/model/heads.py); losses have no products.
    """
    torch.set_autocast_dtype(device.type, torch.bfloat16)
    torch.set_autocast_enabled(device.type, on)
    # A cached cast of a weight would survive the optimizer step.
    torch.set_autocast_cache_enabled(False)
    if device.type == "cuda":
        # cuDNN's LSTM would multiply float32 in TF32, with three digits.
        torch.backends.cudnn.allow_tf32 = on
