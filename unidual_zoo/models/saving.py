"""A network as a folder that timm, the Hub and transformers read: config.json and model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf

from unidual_zoo.files import PARTIAL, make_readable, sync_file
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.heads import primary_task
from unidual_zoo.weights import CONFIG, WEIGHTS_FILE


def save(model: TaskModel, folder: str | Path) -> None:
    """Writes what `timm.create_model("local-dir:FOLDER", pretrained=True)` loads; other files in the folder stay.

    As timm's `save_for_hf`, and beyond it: config.json names the classes of the primary task, whose number stands once,
    as transformers needs it; the weights may lie in any memory format; a file gets its name when it is whole.

    Raises:
        ValueError: the network cannot be built again from its arguments, such as a copy that `for_inference` made.
    """
    _check_rebuilt(model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", suffix=PARTIAL, dir=folder) as temporary:
        weights, config = Path(temporary, WEIGHTS_FILE), Path(temporary, CONFIG)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)
        make_readable(weights)
        save_config_for_hf(model, str(config), model_config={"label_names": _label_names(model)})
        config.write_text(json.dumps(_for_transformers(json.loads(config.read_text())), indent=2) + "\n")
        for file in (weights, config):
            sync_file(file)
            file.replace(folder / file.name)


def _label_names(model: TaskModel) -> list[str] | None:
    primary = primary_task(model.tasks)
    return list(model.spec.class_names(primary) or ()) if primary else None


def _for_transformers(config: dict[str, Any]) -> dict[str, Any]:
    """timm's configuration without the number of classes among the arguments, which transformers passes itself."""
    config["model_args"].pop("num_classes", None)
    config["pretrained_cfg"].pop("label_names", None)  # they stand beside it
    return config


def _check_rebuilt(model: TaskModel) -> None:
    with torch.device("meta"):
        again = type(model)(**model.arguments())
    own, expected = ({key: value.shape for key, value in m.state_dict().items()} for m in (model, again))
    if own != expected:
        strange = sorted(key for key in own | expected if own.get(key) != expected.get(key))
        raise ValueError(
            f"{type(model).__name__} cannot be built again from its arguments, which do not give {strange[0]}: "
            "save the model that it was made from"
        )
