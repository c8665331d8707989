"""A Hub repository as a folder: what is in it, how it is made from a model, and how it is checked.

config.json         timm's fields and, at the root, ours: spec, parameters, sha256 of the weights
model.safetensors   the weights
golden.safetensors  seeded inputs, and what every head answered
results.json        the reports of our own measurements: the only source of the card's metrics
README.md           the model card
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from card import README, check_card, make_card, metrics_of
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unidual_zoo.checks import first_line
from unidual_zoo.files import make_readable
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.create import create_model
from unidual_zoo.models.saving import save
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO
from unidual_zoo.weights import CONFIG, WEIGHTS_FILE, check_config, read_config, sha256_of

GOLDEN, RESULTS = "golden.safetensors", "results.json"
NEEDED = (CONFIG, WEIGHTS_FILE, GOLDEN, README)
FILES = (*NEEDED, RESULTS)
TOLERANCE = 1e-4  # of the largest logit: other machines round otherwise
_SIDE, _FRAMES = 64, 8  # of the golden inputs, where a network takes any


def make_repository(
    model: TaskModel, folder: Path, *, repo: str, reports: Sequence[Mapping[str, Any]] = (), facts: Mapping[str, Any]
) -> None:
    """Writes the repository of a model in evaluation mode into a new folder.

    `facts` are the card's: license, source, about; `reports` as `unidual evaluate --json` and training runs write them.

    Raises:
        ValueError: there is no licence, or a report does not say how it came about.
    """
    reports = [_publishable(report) for report in reports]
    save(model, folder)
    config = json.loads((folder / CONFIG).read_text())
    config["pretrained_cfg"] |= {"license": facts["license"]}
    config |= {
        "spec": model.spec.to_dict(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": sha256_of(folder / WEIGHTS_FILE),
    }
    save_file(golden(model), folder / GOLDEN)
    make_readable(folder / GOLDEN)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    if reports:
        (folder / RESULTS).write_text(json.dumps(reports, indent=2) + "\n")
    (folder / README).write_text(make_card(model, repo=repo, config=config, reports=reports, facts=facts))


def golden(model: TaskModel, inputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Seeded images (1, C, H, W) and clips (1, C, T, H, W), and the answer of every head of every pathway to both."""
    if inputs is None:
        size, frames = ((_SIDE, _SIDE), _FRAMES) if model.fully_convolutional else (model.spec.crop, model.num_frames)
        random, shape = torch.Generator().manual_seed(0), (1, model.in_chans, *size)
        clip = (*shape[:2], frames, *size)
        inputs = {IMAGE: torch.randn(shape, generator=random), VIDEO: torch.randn(clip, generator=random)}
    tensors = {f"input.{modality}": inputs[modality] for modality in MODALITIES}
    with torch.inference_mode():
        for pathway in model.pathways:
            for task in model.pathway_tasks(pathway) or (None,):
                for modality, x in inputs.items():
                    answer = model(x, modality=pathway, task=task)
                    tensors[f"{pathway}.{task or 'features'}.{modality}"] = answer.clone()
    return tensors


def check_repository(folder: Path) -> list[str]:
    """What is wrong with a repository's folder, a sentence each; nothing if it can be published.

    It loads it as a user does, with warnings as errors, and compares hash, parameters, spec, golden answers and card.
    """
    problems = [f"{name} does not belong in a repository" for name in strange_files(folder)]
    if missing := [f"{name} is missing" for name in NEEDED if not (folder / name).is_file()]:
        return problems + missing
    try:
        config = read_config(folder / CONFIG)
        check_config(config, what=CONFIG)
        if config.get("sha256") != sha256_of(folder / WEIGHTS_FILE):
            problems.append(f"{WEIGHTS_FILE} is not the file whose sha256 stands in {CONFIG}")
        reports = json.loads((folder / RESULTS).read_text()) if (folder / RESULTS).exists() else []
        problems += check_card((folder / README).read_text(), config=config, reports=reports)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = create_model(f"local-dir:{folder}", pretrained=True).eval()
        problems += _check_model(model, config, load_file(folder / GOLDEN))
    except Exception as error:  # of files that may be anybody's, read as JSON, YAML and tensors
        problems.append(f"{type(error).__name__}: {first_line(error)}" if _is_foreign(error) else str(error))
    return problems


def _is_foreign(error: Exception) -> bool:
    """Whether an error says too little without its kind, as KeyError and TypeError do."""
    return not isinstance(error, ValueError | RuntimeError | Warning | SafetensorError)


def strange_files(folder: Path) -> list[str]:
    """Names in a folder that do not belong in a repository."""
    return sorted(path.name for path in folder.iterdir() if path.name not in (*FILES, ".gitattributes"))


def _check_model(model: TaskModel, config: Mapping[str, Any], expected: Mapping[str, Tensor]) -> list[str]:
    problems = []
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters != config.get("parameters"):
        problems.append(f"the model has {parameters} parameters, {CONFIG} says {config.get('parameters')}")
    if model.spec.to_dict() != config.get("spec"):
        problems.append(f"the model's spec is not the one in {CONFIG}")
    inputs = {modality: expected[f"input.{modality}"] for modality in MODALITIES}
    answers = golden(model, inputs)
    if answers.keys() != expected.keys():
        return [*problems, f"{GOLDEN} has answers of {sorted(expected)}, the model gives {sorted(answers)}"]
    for name, answer in answers.items():
        error = float((answer - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-12))
        if not error <= TOLERANCE:
            problems.append(f"the golden answer {name} differs by {error:.1e} of its largest value")
    return problems


def _publishable(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report without paths of the machine that made it. Raises ValueError if it has no metrics or no source."""
    metrics_of(report)
    kept = {
        key: value for key, value in report.items() if key not in ("failures", "warnings", "saved_as", "checkpoint")
    }
    return kept | ({"data": Path(str(kept["data"])).name} if "data" in kept else {})
