"""Makes the file of a small checkpoint that ships in the package, in float16, and prints what its row must say.

uv run hub/package.py runs/toy unidual10_aux.toy
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

import unidual_zoo
from unidual.options import run_script
from unidual_zoo.files import make_readable
from unidual_zoo.weights import EXPORT, WEIGHTS_FILE, sha256_of

LARGEST = 10 * 2**20  # bytes
STATISTICS = ("running_mean", "running_var")  # of BatchNorms


def package(run: Path, name: str) -> Path:
    """Writes the weights that a run published, in float16, to `unidual_zoo/checkpoints/<name>.safetensors`.

    Raises:
        OSError: the run has published nothing. ValueError: see `write_weights`.
    """
    path = Path(unidual_zoo.__file__).parent / "checkpoints" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    write_weights(load_file(run / EXPORT / WEIGHTS_FILE), path)
    return path


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Writes a file to ship: weights in float16, the statistics of BatchNorms, whose range is wide, as they are.

    Raises:
        ValueError: the file would be too large, or there are weights that float16 cannot hold.
    """
    halved = {
        key: w.half() if w.is_floating_point() and not key.endswith(STATISTICS) else w for key, w in weights.items()
    }
    size = sum(value.nbytes for value in halved.values())
    if size > LARGEST:
        raise ValueError(f"{path.name} takes {size / 2**20:.1f} MiB, what ships may take {LARGEST / 2**20:.0f}")
    if not all(torch.isfinite(value).all() for value in halved.values()):
        raise ValueError(f"{path.name} has weights that float16 cannot hold")
    save_file(halved, path)
    make_readable(path)


def main(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    name: Annotated[str, typer.Argument(help="architecture.tag of the row.")],
) -> None:
    try:
        path = package(run, name)
    except (ValueError, OSError) as error:
        sys.exit(f"package: {' '.join(str(error).split())}")
    print(f'file="{path.name}", sha256="{sha256_of(path)}"')


if __name__ == "__main__":
    run_script(main)
