"""What each pathway of a network sees in a clip: its most activated feature maps and its Grad-CAM (paper, Figure 2).

The video pathway gets the clip, the image pathway the clip's middle frame. A feature map is what a unit's point-wise
layer gives, after its BatchNorm and a ReLU, at the middle time step; a channel's activation is the largest value in it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from unidual_zoo.checks import nearest
from unidual_zoo.data.transforms import normalize
from unidual_zoo.models.base import TaskModel
from unidual_zoo.names import printable
from unidual_zoo.scoring import Protocol, ViewReader
from unidual_zoo.spec import IMAGE, VIDEO

LAST_BLOCK = "-1"
ORDER = (VIDEO, IMAGE)  # as the paper's figures show them
FORMATS = (".png", ".pdf", ".svg")
GREY, COLOURS = "0.5", "inferno"
CELL, DPI = 1.5, 120  # inches of a feature map's side, pixels per inch
TITLE_LETTERS = 22  # in a line of a title, per panel below it
CAM_ALPHA = 0.8  # opacity of a Grad-CAM's largest value
_CENTRE_CLIP = Protocol(name="explain", clips=1)


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """Grad-CAM of one class: `cam` (h, w) is at least 0, `probability` the head's on this input."""

    task: str
    label: str
    probability: float
    cam: Tensor


@dataclass(frozen=True, kw_only=True)
class Response:
    """How a pathway responds: `maps` (C, H, W) at least 0, the `top` channels by their `activations` (C,), best first.

    `class_map` is None where the pathway has no head.
    """

    maps: Tensor
    activations: Tensor
    top: tuple[int, ...]
    class_map: ClassMap | None

    def to_dict(self) -> dict[str, Any]:
        """The numbers that JSON keeps, without the maps."""
        named = self.class_map
        return {
            "channels": list(self.top),
            "activations": [round(self.activations[channel].item(), 4) for channel in self.top],
            "task": named and named.task,
            "class": named and named.label,
            "probability": named and round(named.probability, 6),
        }


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The responses by pathway, of the layer named; `frames` (N, 3, H, W) uint8 as the network saw them.

    The frames are a clip's first, middle and last, or the still image alone. Everything is on the CPU.
    """

    layer: str
    frames: Tensor
    responses: Mapping[str, Response]

    @property
    def pathways_agree(self) -> bool:
        """Whether both pathways give the same maps, as those do whose layers over time have not been trained."""
        maps = [response.maps for response in self.responses.values()]
        return len(maps) > 1 and maps[0].shape == maps[1].shape and torch.allclose(*maps, rtol=1e-3, atol=1e-5)

    def to_dict(self) -> dict[str, Any]:
        """`{"layer", "pathways": {"video": {"channels", "activations", "task", "class", "probability"}, ...}}`."""
        pathways = {pathway: response.to_dict() for pathway, response in self.responses.items()}
        return {"layer": self.layer, "pathways": pathways}


def read_clip(path: str, model: TaskModel, *, modality: str) -> Tensor:
    """The clip in a video's centre, (3, T, H, W) uint8, or an image, (3, H, W) uint8, as the model's spec frames it."""
    return ViewReader(modality, model.spec, _CENTRE_CLIP)(path)[0][0]


def explain(
    model: TaskModel, clip: Tensor, *, layer: str | int = LAST_BLOCK, top: int = 3, label: str | None = None
) -> Explanation:
    """How the model's pathways respond to a uint8 clip (3, T, H, W) or still image (3, H, W), framed as its spec says.

    The video pathway repeats a still image. `layer` is a unit's module name or an index over the residual blocks, which
    means the block's last unit (paper: -1 in Figure 2, -3 in Figure 3). Grad-CAM is of the last features of which every
    position counts (`TaskModel.explained_features`), for the class `label` in the pathways that know it, else for the
    most likely class of the pathway's own task; classes without names go by their numbers. A model with one pathway has
    that one's response alone.

    Raises:
        ValueError: the model is in training mode; a layer, class, number of channels or shape that cannot be.
    """
    if model.training:
        raise ValueError("needs a model in evaluation mode, call model.eval() first")
    if clip.dtype != torch.uint8 or clip.ndim not in (3, 4) or 0 in clip.shape:
        allowed = "a uint8 clip (3, T, H, W) or image (3, H, W)"
        raise ValueError(f"needs {allowed}, got {clip.dtype} of shape {tuple(clip.shape)}")
    layer = find_layer(model, layer)
    if label is not None:
        _check_label(model, label)
    still = clip if clip.ndim == 3 else clip[:, clip.shape[1] // 2]
    frames = [still] if clip.ndim == 3 else [clip[:, 0], still, clip[:, -1]]
    like = next(model.parameters())
    responses = {}
    for pathway in ORDER:
        if pathway in model.pathways:
            seen = (still if pathway == IMAGE else clip)[None].to(like.device)
            x = normalize(seen, model.spec, dtype=like.dtype)
            responses[pathway] = _respond(model, x, pathway, layer=layer, top=top, label=label)
    return Explanation(layer=layer, frames=torch.stack(frames).cpu(), responses=responses)


def find_layer(model: TaskModel, layer: str | int) -> str:
    """The module name of a unit, given by that name or by an index over the residual blocks (their last unit)."""
    names, blocks = model.explained_layers()
    if isinstance(layer, str) and layer in names:
        return layer
    try:
        return blocks[int(layer)]
    except (ValueError, IndexError):
        indices = f"{-len(blocks)} to {len(blocks) - 1} (residual blocks)"
        raise ValueError(f"no layer {layer!r}, allowed: {indices} or one of {', '.join(names)}") from None


def _respond(model: TaskModel, x: Tensor, pathway: str, *, layer: str, top: int, label: str | None) -> Response:
    """Runs x (1, 3, [T,] H, W) through a pathway."""
    outputs = []
    hook = model.get_submodule(layer).register_forward_hook(lambda unit, inputs, output: outputs.append(output))
    try:
        with torch.no_grad():
            features = model.forward_explained(x, modality=pathway)
            model.resume_features(features, pathway)  # the layer may lie behind
    finally:
        hook.remove()
    maps = _middle(model.layer_maps(outputs[0]), 0).relu().float().cpu()  # (T', C, H', W') -> (C, H', W')
    if not 1 <= top <= len(maps):
        raise ValueError(f"top must be from 1 to the {len(maps)} channels of {layer}, got {top}")
    activations = maps.amax((1, 2))
    best = tuple(activations.argsort(descending=True, stable=True)[:top].tolist())
    return Response(maps=maps, activations=activations, top=best, class_map=_class_map(model, features, pathway, label))


def _middle(x: Tensor, dim: int) -> Tensor:
    return x.select(dim, x.shape[dim] // 2)


# ---- Grad-CAM -------------------------------------------------------------------------------------------------------


def _class_map(model: TaskModel, features: Tensor, pathway: str, label: str | None) -> ClassMap | None:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) of the explained features, maps (1, C, [T',] H', W')."""
    task = model.default_task(pathway, pathway)
    if task is None:
        return None
    knowing = [name for name in model.pathway_tasks(pathway) if label in _labels(model, name)]
    if knowing and task not in knowing:
        task = knowing[0]
    features = features.detach().requires_grad_()
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):  # cuDNN's LSTM has no gradient in evaluation
        logits = model.forward_head(model.resume_features(features, pathway), modality=pathway, task=task)[0]
        number = _labels(model, task).index(label) if label and knowing else int(logits.argmax())
        (gradient,) = torch.autograd.grad(logits[number], features)
    gradient, maps = (model.feature_maps(x, pathway) for x in (gradient, features.detach()))  # (1, C, [T',] H', W')
    cam = (gradient.mean(tuple(range(2, maps.ndim)), keepdim=True) * maps).sum(1)[0].relu()  # ([T',] H', W')
    return ClassMap(
        task=task,
        label=_labels(model, task)[number],
        probability=logits.detach().float().softmax(0)[number].item(),
        cam=(_middle(cam, 0) if cam.ndim == 3 else cam).float().cpu(),
    )


def _labels(model: TaskModel, task: str) -> Sequence[str]:
    """Names of a task's classes, or their numbers where names are unknown."""
    return model.spec.class_names(task) or [str(number) for number in range(model.tasks[task].num_classes)]


def _check_label(model: TaskModel, label: str) -> None:
    tasks = dict.fromkeys(task for pathway in model.pathways for task in model.pathway_tasks(pathway))
    known = list(dict.fromkeys(name for task in tasks for name in _labels(model, task)))
    if label not in known:
        near = ", ".join(nearest(label, known, count=5, least=0)) or "none, the model has no head"
        raise ValueError(f"no class {label!r} in {', '.join(tasks) or 'the model'}; the nearest: {near}")


# ---- the picture ----------------------------------------------------------------------------------------------------


def draw(explanation: Explanation, path: str | PathLike[str]) -> None:
    """Writes the figure of an explanation as a PNG, PDF or SVG, by the path's extension; see `check_picture`."""
    check_picture(path)
    make_figure(explanation).savefig(path, dpi=DPI)


def check_picture(path: str | PathLike[str]) -> None:
    """Raises a ValueError unless `draw` can write a picture of that name."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"the picture's name must end in {', '.join(FORMATS)}, got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent} for the picture {path}")


def make_figure(explanation: Explanation) -> Figure:
    """The explanation as the paper draws it, one subfigure beside the other.

    From left to right: the frames; for each pathway its most activated maps with the other's maps of the same channels
    below, a pair in one scale of colours; Grad-CAM over the middle frame, from 0 to the largest value of each.
    """
    rows = len(explanation.responses)
    stacked = rows == 2 and len(explanation.frames) > 1  # three frames as high as two maps
    count, top = len(explanation.frames), len(next(iter(explanation.responses.values())).top)
    widths = [0.75 if stacked else count, *[top] * rows, 1.1]
    figure = Figure(figsize=(CELL * (sum(widths) + 0.25 * len(widths)), CELL * (rows + 0.35)), layout="constrained")
    parts = list(figure.subfigures(1, len(widths), squeeze=False, width_ratios=widths).flat)
    _draw_frames(parts[0], explanation.frames, rows=count if stacked else 1)
    for part, pathway in zip(parts[1:], explanation.responses, strict=False):
        _draw_maps(part, explanation.responses, pathway)
    _draw_class_maps(parts[-1], explanation)
    return figure


def _draw_frames(part: SubFigure, frames: Tensor, *, rows: int) -> None:
    titles = ("first", "middle", "last") if len(frames) > 1 else ("image",)
    grid = part.subplots(rows, len(frames) // rows, squeeze=False).flat
    for axes, frame, title in zip(grid, frames, titles, strict=True):
        _show(axes, frame.permute(1, 2, 0))  # (3, H, W) -> (H, W, 3)
        axes.set_ylabel(title, color=GREY, fontsize="small")


def _draw_maps(part: SubFigure, responses: Mapping[str, Response], pathway: str) -> None:
    """The pathway's top channels in the upper row, the other pathway's maps of the same channels in the lower."""
    top = responses[pathway].top
    title = f"most activated by the {pathway} pathway"
    part.suptitle(textwrap.fill(title, TITLE_LETTERS * len(top)), fontsize="medium")
    rows = sorted(responses, key=lambda name: name != pathway)
    grid = part.subplots(len(rows), len(top), squeeze=False)
    for column, channel in enumerate(top):
        maps = [responses[name].maps[channel] for name in rows]
        largest = max(shown.max().item() for shown in maps)
        for axes, shown in zip(grid[:, column], maps, strict=True):
            _show(axes, shown, cmap=COLOURS, vmin=0, vmax=largest or 1)
            axes.set_title(str(channel), color=GREY, fontsize="small", loc="left", pad=2)
            axes.set_title(f"max {shown.max():.1f}", color=GREY, fontsize="x-small", loc="right", pad=2)
    for axes, name in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(name, fontsize="small")


def _draw_class_maps(part: SubFigure, explanation: Explanation) -> None:
    """Each pathway's Grad-CAM over the middle frame, which is grey and the clearer the less the class draws on it."""
    part.suptitle("Grad-CAM", fontsize="medium")
    frame = explanation.frames[len(explanation.frames) // 2].float().mean(0)  # (3, H, W) -> (H, W)
    grid = part.subplots(len(explanation.responses), 1, squeeze=False).flat
    for axes, (pathway, response) in zip(grid, explanation.responses.items(), strict=True):
        _show(axes, frame, cmap="gray", vmin=0, vmax=255)
        axes.set_ylabel(pathway, fontsize="small")
        named = response.class_map
        if named is None:
            axes.set_title("no head", color=GREY, fontsize="small", pad=2)
            continue
        title = printable(f"{named.label} {named.probability:.0%}")
        axes.set_title(textwrap.fill(title, TITLE_LETTERS, max_lines=2), fontsize="small", pad=2, parse_math=False)
        cam = F.interpolate(named.cam[None, None], size=frame.shape, mode="bilinear")[0, 0]
        share = (cam / (cam.max() or 1)).numpy()
        axes.imshow(share, cmap=COLOURS, vmin=0, vmax=1, alpha=CAM_ALPHA * share)


def _show(axes: Axes, picture: Tensor, **options: Any) -> None:
    axes.imshow(picture.numpy(), **options)
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_visible(False)
