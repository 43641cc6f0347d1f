"""The device that computes, and how precisely it does."""

import platform
from dataclasses import dataclass

import torch

from benchmark.config.errors import ConfigError


def find_device(name: str, setting: str = "engine.device") -> torch.device:
    """Return the device of a name.

    Raises:
        ConfigError: if this machine has no such device, or it does not compute.
    """
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    try:
        one = torch.ones(1, dtype=torch.float64, device=name)  # used: `meta` has no numbers
        float(one)  # an asynchronous device computes it only now
        return one.device
    except (RuntimeError, AssertionError, TypeError) as error:
        known = name in {*there, "cuda"} and len(there) > 1
        reason = str(error).splitlines()[0] if known else "no such device"
        raise ConfigError(
            f"{setting}={name}: {reason}; {platform.node() or 'this machine'} has "
            f"{', '.join(there)}"
        ) from None


def use_float32() -> None:
    """Have single precision computed as such; by default a GPU rounds what it convolves to TF32,
    of ten bits. A module of the user may have chosen so for products too."""
    torch.backends.fp32_precision = "ieee"  # pyright: ignore[reportAttributeAccessIssue] unlisted
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def computed_on(device: torch.device) -> dict[str, str | int]:
    """Return what a summary records of how a cell was computed."""
    model = f": {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return {
        "device": device.type + model,
        "threads": torch.get_num_threads(),
        "precision": "float32, TF32 off",
    }


@dataclass
class Engine:
    """How to compute, not what.

    Attributes:
        device: a torch device, `cpu` or `cuda`.
        memory_gb: upper bound for the memory of the cells in flight on a machine.
        threads: CPU threads of each process. The last bits of results may depend on it.
        checkpoint_every: rounds after which unfinished cells are saved; null: never.
    """

    device: str = "cpu"
    memory_gb: float = 4.0
    threads: int = 1
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("memory_gb", "threads", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"engine.{name}={value} must be positive")
