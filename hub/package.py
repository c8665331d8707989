"""Makes the file of a small checkpoint that ships in the package, in float16, and prints what its row must say.

uv run hub/package.py runs/toy unidual10_aux.toy
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file, save_file

import unidual_zoo
from unidual_zoo.weights import EXPORT, WEIGHTS_FILE, sha256_of

LARGEST = 4 * 2**20  # bytes


def package(run: Path, name: str) -> Path:
    """Writes the weights that a run published, in float16, to `unidual_zoo/checkpoints/<name>.safetensors`.

    Raises:
        OSError: the run has published nothing. ValueError: the file would be too large to ship.
    """
    weights = load_file(run / EXPORT / WEIGHTS_FILE)
    halved = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    size = sum(value.nbytes for value in halved.values())
    if size > LARGEST:
        raise ValueError(f"{name} takes {size / 2**20:.1f} MiB, what ships may take {LARGEST / 2**20:.0f}")
    if not all(torch.isfinite(value).all() for value in halved.values()):
        raise ValueError(f"{name} has weights that float16 cannot hold")
    path = Path(unidual_zoo.__file__).parent / "checkpoints" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(halved, path)
    return path


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
    typer.run(main)
