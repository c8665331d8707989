"""Heads fitted by least squares to what the network tells of training files before it learns anything.

Fine-tuning that begins with random heads spends its first epochs on what a linear probe finds at once, and by then has
moved the features that the probe would have used (Kumar et al. 2022, arXiv 2202.10054). A ridge regression on labels
has a closed form, and so have its predictions of each example by all others; by these the ridge is chosen, and the
scale that makes logits of the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.evaluation import evaluation_mode
from unidual_zoo.models.base import TaskModel
from unidual_zoo.progress import Progress
from unidual_zoo.scoring import PROTOCOLS, ViewRoute, score_files
from unidual_zoo.training.rundir import RunError

MOST = 2048  # training files of a task that are looked at: the fit costs the third power of their number
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # to be chosen from; of standardised features
SCALES = tuple(2.0 ** (step / 2) for step in range(14))  # likewise, of logits
LEAST_DEVIATION = 0.01  # of a feature, of what features deviate by on average: what hardly varies must not count


@dataclass(frozen=True)
class Fit:
    """A head (weight (classes, D), bias (classes,)), and its cross-entropy on each example as fitted to the others."""

    weight: Tensor
    bias: Tensor
    loss: float


class HeadInputs(ViewRoute):
    """Files of a modality as what the heads of a pathway see of them, a row (D,) of one view each."""

    outputs = "features"

    def __init__(self, model: TaskModel, modality: str, *, pathway: str, **options: Any) -> None:
        super().__init__(model, modality, pathway=pathway, protocol=PROTOCOLS["one_clip"], **options)

    def _respond(self, x: Tensor) -> Tensor:
        return self.model.head_inputs(self.model.forward_features(x, modality=self.pathway), self.pathway)


def fit_heads(
    model: TaskModel,
    media: Mapping[str, MediaSet],
    *,
    seed: int,
    failed: dict[str, str],
    class_weights: Mapping[str, Tensor] | None = None,
    **reading: Any,
) -> Iterator[tuple[str, str, float]]:
    """Fits every head of the tasks to at most `MOST` of their files, if that is better than what the head is.

    Gives (task, pathway, cross-entropy) of those that were fitted. `reading` are options of `scoring.score_files`;
    files that cannot be read are left out and written into `failed`, file -> reason. `class_weights` (classes,) are of
    tasks whose classes do not weigh alike.

    Raises:
        RunError: none of a task's files can be read.
    """
    for pathway in model.pathways:
        for task in model.pathway_tasks(pathway):
            if task not in media:
                continue
            chosen = media[task].take(_some(len(media[task]), seed))
            inputs, labels, without = _head_inputs(model, chosen, pathway, **reading)
            failed |= without
            if not len(labels):
                last = ": ".join(list(without.items())[-1])
                raise RunError(f"{task}: none of {len(chosen)} training files can fit heads; the last, {last}")
            head: Any = model.heads[pathway][task]
            if len(set(labels.tolist())) < 2:
                continue
            weights = class_weights[task].double() if class_weights and task in class_weights else None
            fit = fit_head(inputs.double(), labels, num_classes=head.out_features, class_weights=weights)
            with torch.no_grad():
                logits = head(inputs.to(head.weight)).double().cpu()
                if fit.loss < F.cross_entropy(logits, labels, weights).item():
                    head.weight.copy_(fit.weight)
                    head.bias.copy_(fit.bias)
                    yield task, pathway, fit.loss


def fit_head(inputs: Tensor, labels: Tensor, *, num_classes: int, class_weights: Tensor | None = None) -> Fit:
    """The head for inputs (N, D) float64 and labels (N,) of two classes or more, by ridge regression.

    An example counts, in the regression and in the loss, as much as the weight (classes,) of its class says.
    """
    weighs = torch.ones(len(labels)).to(inputs) if class_weights is None else class_weights[labels]
    part, root = weighs / weighs.sum(), (weighs / weighs.mean()).sqrt()[:, None]
    mean = part @ inputs
    deviation = (part @ (inputs - mean).square()).sqrt()
    deviation = deviation.clamp(min=LEAST_DEVIATION * deviation.mean().item() + torch.finfo(inputs.dtype).tiny)
    features = root * (inputs - mean) / deviation / inputs.shape[1] ** 0.5
    targets = F.one_hot(labels, num_classes).to(inputs)
    shares = part @ targets
    spectrum, vectors = torch.linalg.eigh(features @ features.T)
    turned = vectors.T @ (root * (targets - shares))
    best: tuple[float, float, float] | None = None
    for ridge in RIDGES:
        kept = spectrum / (spectrum + ridge)
        own = (part + vectors.square() @ kept)[:, None]  # how far an example predicts itself
        without = (shares + vectors @ (kept[:, None] * turned) / root - own * targets) / (1 - own)
        for scale in SCALES:
            loss = F.cross_entropy(scale * without, labels, class_weights).item()
            best = min(best or (loss, ridge, scale), (loss, ridge, scale))
    assert best is not None
    loss, ridge, scale = best
    weight = scale * (features.T @ (vectors @ (turned / (spectrum + ridge)[:, None]))).T
    weight = weight / deviation / inputs.shape[1] ** 0.5
    return Fit(weight, scale * shares - weight @ mean, loss)


def _head_inputs(
    model: TaskModel, media: MediaSet, pathway: str, **reading: Any
) -> tuple[Tensor, Tensor, dict[str, str]]:
    """What the pathway's heads see of the files (N, D), their labels (N,), and why others could not be seen."""
    route = HeadInputs(model, media.modality, pathway=pathway)
    files = [(path, media.modality) for path in media.files]
    rows, labels, failed = [], [], {}
    with evaluation_mode(model):
        scored = score_files(files, {media.modality: route}, **reading)
        for found in Progress(scored, total=len(files), desc="fitting heads", unit="file"):
            if found.scores is not None:
                rows.append(found.scores.mean(0))
                labels.append(media.labels[found.index])
            else:
                failed[media.files[found.index]] = found.error or ""
    return torch.stack(rows) if rows else torch.empty(0, 0), torch.tensor(labels, dtype=torch.long), failed


def _some(count: int, seed: int) -> list[int]:
    """At most `MOST` numbers of `count` files, in their order."""
    if count <= MOST:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, MOST, replace=False).tolist())
