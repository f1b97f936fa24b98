"""Describe the machine, for the report and for comparisons of times."""

import os
import platform

import torch


def machine_in_words() -> dict[str, str | int]:
    """Operating system, hardware and versions of this process."""
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 0,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
