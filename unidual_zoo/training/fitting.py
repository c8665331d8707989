"""Heads fitted by least squares to what the network tells of training files before it learns anything.

Fine-tuning that begins with random heads spends its first epochs on what a linear probe finds at once, and by then has
moved the features that the probe would have used (Kumar et al. 2022, arXiv 2202.10054). A ridge regression on labels
has a closed form, and so have its predictions of each example by all others; by these the ridge is chosen, and the
scale that makes logits of the answers, which are never surer than the number of files allows.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn import functional as F

from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.evaluation import evaluation_mode
from unidual_zoo.models.base import TaskModel
from unidual_zoo.names import counted, named
from unidual_zoo.progress import Progress
from unidual_zoo.scoring import PROTOCOLS, ViewRoute, score_files
from unidual_zoo.training.kept import KeptViews
from unidual_zoo.training.rundir import RunError

MOST = 2048  # training files of a task that are looked at: the fit costs the third power of their number
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # to be chosen from; of standardised features
SCALES = tuple(2.0 ** (step / 2) for step in range(14))  # of logits, with which ridges are compared
HALVINGS = 20  # of the interval, as logarithms, in which the scale of logits lies
ROUNDING = 1e-5  # of features' size: files that differ by less are the same, computed in other batches
LEAST_DEVIATION = 0.01  # of a feature, of what features deviate by on average: what hardly varies must not count


@dataclass(frozen=True)
class Fit:
    """A head (weight (classes, D), bias (classes,)), and its cross-entropy on each example as fitted to the others, if
    one of these is of the same class."""

    weight: Tensor
    bias: Tensor
    loss: float


class HeadInputs(ViewRoute):
    """Files of a modality as what the heads of some pathways see of them: a row of one view each, (D,) beside (D,)."""

    outputs = "features"

    def __init__(self, model: TaskModel, modality: str, *, pathways: Sequence[str], **options: Any) -> None:
        super().__init__(model, modality, pathway=pathways[0], protocol=PROTOCOLS["one_clip"], **options)
        self.pathways = tuple(pathways)

    def _respond(self, x: Tensor) -> Tensor:
        features = {pathway: self.model.forward_features(x, modality=pathway) for pathway in self.pathways}
        return torch.cat([self.model.head_inputs(seen, pathway) for pathway, seen in features.items()], 1)


class Look(NamedTuple):
    """What heads see of a file, (D,) of one pathway beside (D,) of the next, and its label."""

    inputs: Tensor
    label: int


def fit_heads(
    model: TaskModel,
    media: Mapping[str, MediaSet],
    *,
    seed: int,
    failed: dict[str, str],
    kept: Mapping[str, KeptViews] | None = None,
    class_weights: Mapping[str, Tensor] | None = None,
    shard: tuple[int, int] = (0, 1),
    **reading: Any,
) -> dict[str, float]:
    """Fits every head of the tasks to at most `MOST` of their files, if that is better than what the head is.

    Each file is looked at once for the heads of all pathways, or its first view is taken from what is `kept` of it. Of
    the processes, (rank, world) is the `shard`, each looks at a part of the files, and the first fits; the others'
    heads stay as they are. `reading` are options of `scoring.score_files`; files that cannot be read are left out and
    written into `failed`, file -> reason; of what is kept those are there already. `class_weights` (classes,) are of
    tasks whose classes do not weigh alike.

    Returns:
        The cross-entropy of the heads that were fitted, by task.pathway.

    Raises:
        RunError: none of a task's files can be read.
    """
    rank, world = shard
    losses: dict[str, float] = {}
    for task, files in media.items():
        heads: dict[str, Any] = {
            pathway: model.heads[pathway][task] for pathway in model.pathways if task in model.pathway_tasks(pathway)
        }
        count = min(len(files), MOST)
        unseen: dict[str, str] = {}
        with evaluation_mode(model):
            if kept and task in kept:
                looks = list(_kept_looks(model, kept[task], range(rank, count, world), list(heads)))
                unseen = {path: failed[path] for path in files.files if path in failed}  # others took their place
            else:
                part = files.take(_some(len(files), seed)[rank::world])
                looks = list(_looks(model, part, list(heads), unseen, shown=rank == 0, **reading))
        failed |= unseen
        parts = gather_object([(looks, unseen)])
        looks = [look for seen, _ in parts for look in seen if look.inputs.isfinite().all()]
        if not looks:
            failures = (": ".join(failure) for _, unseen in parts for failure in reversed(unseen.items()))
            last = next(failures, "as those kept: the network's features are not finite")
            raise RunError(f"{task}: none of {counted(count, 'training file')} can fit heads; the last, {last}")
        if rank == 0:
            _warn_of_unseen(task, files, {path for _, unseen in parts for path in unseen}, looks)
            weights = class_weights.get(task) if class_weights else None
            losses |= {f"{task}.{pathway}": loss for pathway, loss in _fit_to_looks(heads, looks, weights).items()}
    return losses


def fit_head(inputs: Tensor, labels: Tensor, *, num_classes: int, class_weights: Tensor | None = None) -> Fit:
    """The head for inputs (N, D) float64 and labels (N,), by ridge regression; two classes have two examples or more.

    An example counts, in the regression and in the loss, as much as the weight (classes,) of its class says. By one
    that is alone in its class nothing is chosen, since the others cannot know it.
    """
    weighs = torch.ones(len(labels)).to(inputs) if class_weights is None else class_weights[labels]
    part, root = weighs / weighs.sum(), (weighs / weighs.mean()).sqrt()[:, None]
    mean = part @ inputs
    deviation = (part @ (inputs - mean).square()).sqrt()
    least = LEAST_DEVIATION * deviation.mean() + ROUNDING * (part @ inputs.abs()).mean()
    deviation = deviation.clamp(min=least.item() + torch.finfo(inputs.dtype).tiny)
    features = root * (inputs - mean) / deviation / inputs.shape[1] ** 0.5
    targets, known = F.one_hot(labels, num_classes).to(inputs), has_fellows(labels)
    shares = part @ targets
    spectrum, vectors = torch.linalg.eigh(features @ features.T)
    turned = vectors.T @ (root * (targets - shares))
    answers: dict[float, Tensor] = {}  # by ridge: of each example, by all others
    for ridge in RIDGES:
        kept = spectrum / (spectrum + ridge)
        own = (part + vectors.square() @ kept)[:, None]  # how far an example predicts itself
        without = (shares + vectors @ (kept[:, None] * turned) / root - own * targets) / (1 - own)
        answers[ridge] = without[known]

    def loss_of(ridge: float, scale: float) -> float:
        return F.cross_entropy(scale * answers[ridge], labels[known], class_weights).item()

    ridge = min(RIDGES, key=lambda ridge: min(loss_of(ridge, scale) for scale in SCALES))
    scale = modest_scale(answers[ridge], labels[known], part[known])
    weight = scale * (features.T @ (vectors @ (turned / (spectrum + ridge)[:, None]))).T
    weight = weight / deviation / inputs.shape[1] ** 0.5
    return Fit(weight, scale * shares - weight @ mean, loss_of(ridge, scale))


def has_fellows(labels: Tensor) -> Tensor:
    """Whether there is another example with the label of each (N,)."""
    return labels.bincount()[labels] > 1


def modest_scale(answers: Tensor, labels: Tensor, part: Tensor) -> float:
    """What makes logits of answers (N, classes) to examples that weigh as `part` (N,) says.

    It minimises the cross-entropy, which is convex in it, with targets as Platt's (1999): by Laplace's rule of
    succession an example after n that were answered rightly is so with a probability of (n + 1) / (n + 2), and answers
    that nothing contradicts become no surer than that.
    """
    count, num_classes = answers.shape
    sure = (count + 1) / (count + 2)
    targets = torch.full_like(answers, (1 - sure) / (num_classes - 1)).scatter(1, labels[:, None], sure)
    low, high = SCALES[0], SCALES[-1]
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        slope = part @ (((middle * answers).softmax(1) - targets) * answers).sum(1)
        low, high = (low, middle) if slope > 0 else (middle, high)
    return (low * high) ** 0.5


def _fit_to_looks(heads: Mapping[str, Any], looks: Sequence[Look], class_weights: Tensor | None) -> dict[str, float]:
    """Fits the heads of a task, by pathway, where that makes them better; their cross-entropies then."""
    labels = torch.tensor([look.label for look in looks])
    known = has_fellows(labels)
    if len(labels[known].unique()) < 2:
        return {}
    weights = None if class_weights is None else class_weights.double()
    losses = {}
    beside = torch.stack([look.inputs for look in looks]).split([head.in_features for head in heads.values()], 1)
    for (pathway, head), inputs in zip(heads.items(), beside, strict=True):
        fit = fit_head(inputs.double(), labels, num_classes=head.out_features, class_weights=weights)
        with torch.no_grad():
            logits = head(inputs[known].to(head.weight)).double().cpu()
            if fit.loss < F.cross_entropy(logits, labels[known], weights).item():
                head.weight.copy_(fit.weight)
                head.bias.copy_(fit.bias)
                losses[pathway] = fit.loss
    return losses


def _looks(
    model: TaskModel, media: MediaSet, pathways: Sequence[str], failed: dict[str, str], *, shown: bool, **reading: Any
) -> Iterator[Look]:
    """What the pathways' heads see of the files; those that cannot be seen are written into `failed`."""
    route = HeadInputs(model, media.modality, pathways=pathways)
    scored = score_files([(path, media.modality) for path in media.files], {media.modality: route}, **reading)
    for found in Progress(scored, total=len(media), desc="fitting heads", unit="file", shown=shown):
        if found.scores is None:
            failed[media.files[found.index]] = found.error or ""
        else:
            yield Look(found.scores.mean(0), media.labels[found.index])


def _kept_looks(
    model: TaskModel, views: KeptViews, positions: Iterable[int], pathways: Sequence[str]
) -> Iterator[Look]:
    """What the pathways' heads see by what is kept of the files at these positions of the task's order."""
    like = next(model.parameters())
    for settled, label in views.first_looks(positions):
        with torch.inference_mode():
            seen = [model.pool_settled(settled[pathway].to(like), pathway).mean(0) for pathway in pathways]
        yield Look(torch.cat(seen).float().cpu(), label)


def _warn_of_unseen(task: str, media: MediaSet, failed: Collection[str], looks: Sequence[Look]) -> None:
    """Warns of classes of which every file that was looked at could not be read."""
    lacking = {label for path, label in zip(media.files, media.labels, strict=True) if path in failed}
    if lost := sorted(lacking - {look.label for look in looks}):
        of = f"{len(lost)} of {counted(len(media.classes), 'class')}"
        names = named([media.classes[label] for label in lost])
        warnings.warn(f"{task}: no training file can be read of {of}: {names}", stacklevel=3)


def _some(count: int, seed: int) -> list[int]:
    """At most `MOST` numbers of `count` files, in their order."""
    if count <= MOST:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, MOST, replace=False).tolist())
