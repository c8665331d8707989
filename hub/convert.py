"""Turns a checkpoint of the table, in its authors' format, into a folder that `local-dir:` loads and publish.py takes.

uv run hub/convert.py r2plus1d34.ig65m_ft_k400_clip8 --out converted/ig65m        downloads the file
uv run hub/convert.py r2plus1d18.tv_k400 --file r2plus1d_18-91a641e6.pth --out converted/tv
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from unidual_zoo.models.create import create_model
from unidual_zoo.models.saving import save


def convert(name: str, *, out: Path, file: Path | None = None, **arguments: Any) -> None:
    """Writes config.json and model.safetensors of the tag `name` with the weights of `file` (default: the published).

    Raises:
        RuntimeError: the tag is unknown, or the weights cannot be had or do not fit.
    """
    overlay = {"file": str(file)} if file else {}
    model: Any = create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    save(model, out)


def main(
    name: Annotated[str, typer.Argument(help="A name and tag of `unidual models`.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    file: Annotated[Path | None, typer.Option(help="The authors' file [default: it is downloaded].")] = None,
) -> None:
    try:
        convert(name, out=out, file=file)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"convert: {' '.join(str(error).split())}")
    print(f"{out} holds {name}")


if __name__ == "__main__":
    typer.run(main)
