"""Where commands compute, and how many processes read for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MOST_WORKERS = 8


def device_of(name: str | None) -> torch.device:
    """A torch device that can be used; the first GPU, else the CPU, for None."""
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def workers_of(workers: int | None, device: torch.device) -> int:
    """The loader processes that are asked for; for None none beside a CPU, else one for each core, at most 8."""
    if workers is not None:
        return workers
    from unidual_zoo.cores import usable_cores

    return 0 if device.type == "cpu" else min(MOST_WORKERS, usable_cores())
