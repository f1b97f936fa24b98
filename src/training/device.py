"""The device and the precision of a run."""

import argparse
import os

import torch

from src.utils.errors import UserError
from src.utils.ranks import world_size

EXPECTED = "expected auto, cpu, cuda, cuda:N or mps"


def choose_device(args: argparse.Namespace) -> torch.device:
    """The device of --device. Also sets the autocast dtype of --dtype for the whole process, and on
    a GPU what `optimizer.backward` needs.

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
        torch.cuda.set_device(device)
    if args.dtype == "auto":
        has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        args.dtype = "bfloat16" if has_it else "float32"
    # For the whole run. Scalar heads disable autocast (src/model/heads.py); losses have no matmuls.
    torch.set_autocast_dtype(device.type, torch.bfloat16)
    torch.set_autocast_enabled(device.type, args.dtype == "bfloat16")
    # A cached cast of a weight would survive the optimizer step.
    torch.set_autocast_cache_enabled(False)
    if device.type == "cuda":
        # cuDNN's LSTM would multiply float32 in TF32, with three digits.
        torch.backends.cudnn.allow_tf32 = args.dtype == "bfloat16"
        # Read when the first product is computed.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return device
