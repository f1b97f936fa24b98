"""What a figure was measured on: machine, versions, and the rate of float32 products."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

# (rows, inner, columns): a square product, and the blocks' products for about 1,000 tokens.
PRODUCTS = {"square": (1024, 1024, 1024), "model": (1024, 256, 1376)}
# Of a GPU, which the others do not fill.
GPU_PRODUCTS = {"square": (8192, 8192, 8192)}


def product_rate(
    clock: Callable[[], float] = time.perf_counter, repeats: int = 5, seconds: float = 0.03,
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """GFLOP/s of matrix products on random data, the median of a few short runs of each shape.

    clock: of a GPU one that waits for it (`gpu_clock`).
    """
    rates = {}
    shapes = PRODUCTS if torch.device(device).type == "cpu" else GPU_PRODUCTS
    for name, (rows, inner, columns) in shapes.items():
        left = torch.rand(rows, inner, device=device).to(dtype)
        right = torch.rand(inner, columns, device=device).to(dtype)
        out = torch.empty(rows, columns, device=device, dtype=dtype)
        found = []
        for _ in range(repeats):
            done, started = 0, clock()
            while (spent := clock() - started) < seconds:
                torch.mm(left, right, out=out)
                done += 1
            found.append(2e-9 * rows * inner * columns * done / spent)
        rates[name] = statistics.median(found)
    return rates


def gpu_clock() -> float:
    """Seconds, once all that was asked of the GPU is done."""
    torch.cuda.synchronize()
    return time.perf_counter()


def machine() -> dict[str, str | int]:
    """The processor as Linux names it, cores, load, system, Python and torch."""
    name = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    return {
        "processor": name,
        "cores": os.cpu_count() or 0,
        "load_average": " ".join(f"{x:.1f}" for x in os.getloadavg()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile (of one value: itself)."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, columns aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: list[str]) -> str:
        return "| " + " | ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)) + " |"

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])
