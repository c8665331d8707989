"""The joint objective: every loss of one training step, in one forward (paper §2.2).

With an image task `in1k` and a video task `k400` the losses, each named task.pathway, are

    in1k.image   images                  on the image pathway    the image loss
    k400.video   clips                   on the video pathway    the video loss
    in1k.video   images inflated         on the video pathway    UniDual-Aux: the auxiliary image loss
    k400.image   one frame of each clip  on the image pathway    UniDual-Aux: the auxiliary video loss

and a network has those that it has heads for. All data of a pathway go through it in one concatenated forward, so that
its BatchNorms see them together (Figure 1d), and one call gives all losses, as plain DistributedDataParallel needs it.
Images are inflated to as many frames as the network's spec says; if that is not a clip's number, as where they are
single frames (CoVeR), either length has a forward of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from timm.data.mixup import mixup_target
from torch import Tensor, nn

from unidual_zoo.checks import check_known
from unidual_zoo.data.transforms import normalize
from unidual_zoo.models.base import TaskModel
from unidual_zoo.spec import IMAGE, VIDEO

TOTAL = "total"
Settled = Mapping[str, Tensor]  # what a task's losses begin with, by pathway, where all before it is frozen
Batch = Mapping[str, tuple[Tensor | Settled, Tensor]]


def unchanged(x: Tensor, num_frames: int) -> Tensor:
    """Images stay images, clips stay clips."""
    return x


def inflated(images: Tensor, num_frames: int) -> Tensor:
    """Images (B, C, H, W) -> static clips (B, C, num_frames, H, W), I_inflated = [I, I, ..., I]."""
    return images.unsqueeze(2).expand(-1, -1, num_frames, -1, -1)


def one_frame(clips: Tensor, num_frames: int) -> Tensor:
    """Clips (B, C, T, H, W) -> one random frame of each (B, C, H, W)."""
    chosen = torch.randint(clips.shape[2], clips.shape[:1]).to(clips.device)
    return clips[torch.arange(len(clips), device=clips.device), :, chosen]


def every_frame(clips: Tensor, num_frames: int) -> Tensor:
    """Clips (B, C, T, H, W) -> their frames as images (B*T, C, H, W)."""
    return clips.transpose(1, 2).flatten(0, 1)


FRAMES = {"one": one_frame, "all": every_frame}  # what the auxiliary video loss sees of a clip

# (modality of the data, pathway) -> the form in which the data enter the pathway: Table 1, row by row.
_Forms = Mapping[tuple[str, str], Callable[[Tensor, int], Tensor]]
UNIDUAL: _Forms = {
    (IMAGE, IMAGE): unchanged,
    (VIDEO, VIDEO): unchanged,
    (IMAGE, VIDEO): inflated,
}  # and (VIDEO, IMAGE) as FRAMES has it
R2D_MULTITASK: _Forms = {(IMAGE, IMAGE): inflated, (VIDEO, IMAGE): unchanged}


def balanced_weights(labels: Sequence[int], num_classes: int) -> Tensor:
    """Weights (num_classes,) with which classes weigh alike: files / (classes · files of the class).

    Over the files their mean is 1; a class without files has weight 1.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_classes)
    weights = len(labels) / ((counts > 0).sum() * counts.clamp(min=1))
    return weights.where(counts > 0, 1.0)


class JointObjective(nn.Module):
    """`{task: (inputs, labels)}` -> `{"in1k.image": loss, ..., "total": their weighted sum}`.

    Args:
        losses: weights of losses by name; those not named weigh 1.
        label_smoothing: of every loss.
        mixup: alpha of the Beta distribution that mixes a task's examples with the same ones in reverse order; 0: off.
        freeze_norms: BatchNorms use and keep their running statistics, also in training; those with frozen scales
            do so anyway.
        teachers: of tasks without labels: they give class probabilities of a random frame of each clip, uint8.
        class_weights: of tasks whose classes do not weigh alike in the losses: (classes,).
        auxiliary_frames: "one" random frame of each clip goes down the image pathway of a UniDual, or "all" of them.
    """

    def __init__(
        self,
        model: TaskModel,
        losses: Mapping[str, float] | None = None,
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        freeze_norms: bool = False,
        auxiliary_frames: str = "one",
        teachers: Mapping[str, nn.Module] | None = None,
        class_weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.teachers = nn.ModuleDict(teachers or {})
        self.model = model
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.freeze_norms = freeze_norms
        names = [f"{task}.{pathway}" for pathway in model.pathways for task in model.pathway_tasks(pathway)]
        if unknown := sorted(set(losses or {}) - set(names)):
            raise ValueError(
                f"no loss is called {', '.join(unknown)}; the model's losses: {', '.join(names) or 'none'}"
            )
        self.weights = {name: float((losses or {}).get(name, 1.0)) for name in names}
        self.tasks = sorted({name.split(".")[0] for name in names})
        clips_on_image_pathway = any(task.modality == VIDEO for task in model.tasks.values())
        self._class_weights = {task: f"class_weights_{number}" for number, task in enumerate(class_weights or {})}
        for task, weights in (class_weights or {}).items():
            self.register_buffer(self._class_weights[task], weights, persistent=False)
        check_known("auxiliary_frames", auxiliary_frames, FRAMES)
        unidual = {**UNIDUAL, (VIDEO, IMAGE): FRAMES[auxiliary_frames]}
        self.forms = R2D_MULTITASK if model.pathways == (IMAGE,) and clips_on_image_pathway else unidual

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Every loss, averaged over its task's examples, and the weighted sum `total`.

        Inputs are images (B, 3, H, W) or clips (B, 3, T, H, W), as uint8 or normalised, or what `settle` made of them;
        labels (B,) are class numbers.

        Raises:
            ValueError: the batch does not hold exactly the tasks that have losses.
        """
        if sorted(batch) != self.tasks:
            raise ValueError(f"needs a batch of the tasks {', '.join(self.tasks)}, got {', '.join(sorted(batch))}")
        data = {task: self._augmented(task, *batch[task]) for task in batch}
        losses = {}
        for pathway in self.model.pathways:
            entering = {task: data[task][0] for task in self.model.pathway_tasks(pathway)}
            for task, features in self._pooled(pathway, entering).items():
                logits = self.model.heads[pathway][task](features)
                targets = data[task][1]
                targets = targets.repeat_interleave(len(features) // len(targets), 0)  # of every frame that of its clip
                weight = getattr(self, self._class_weights[task]) if task in self._class_weights else None
                losses[f"{task}.{pathway}"] = F.cross_entropy(
                    logits, targets, weight, label_smoothing=self.label_smoothing
                )
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
        return {**losses, TOTAL: total}

    def train(self, mode: bool = True) -> JointObjective:
        """nn.Module's, but frozen BatchNorms stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                learns = module.weight is None or module.weight.requires_grad
                module.train(module.training and not self.freeze_norms and learns)
        return self

    def settled_tasks(self) -> list[str]:
        """The tasks all of whose losses begin with what a view of a file always gives, since it is frozen."""
        if self.mixup:
            return []
        unsettled = {
            task
            for pathway in self.model.pathways
            for task in self.model.pathway_tasks(pathway)
            if not self.model.is_settled(pathway)
        }
        return [task for task in self.tasks if task not in unsettled and task not in self.teachers]

    @torch.no_grad()
    def settle(self, task: str, x: Tensor, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Images or clips (B, …) of a task -> what its losses begin with, by pathway: (B, n, …), n the frames of a clip
        where a loss sees them as images, else 1. Each example's seed draws its frame where one is drawn."""
        x, settled = self._normalised(x), {}
        for pathway in self.model.pathways:
            if task in self.model.pathway_tasks(pathway):
                entering = []
                for example, seed in zip(x.split(1), seeds, strict=True):
                    torch.manual_seed(seed)
                    entering.append(self._entering(pathway, task, example))
                features = self.model.forward_settled(torch.cat(entering), pathway)
                settled[pathway] = features.unflatten(0, (len(x), -1))
        return settled

    def _pooled(self, pathway: str, data: Mapping[str, Tensor | Settled]) -> dict[str, Tensor]:
        """What heads see (B, D) of the tasks that have one on a pathway."""
        inputs = {task: self._entering(pathway, task, x) for task, x in data.items() if isinstance(x, Tensor)}
        pooled = dict(zip(inputs, self._features(pathway, list(inputs.values())), strict=True))
        for task, x in data.items():
            if not isinstance(x, Tensor):
                settled = x[pathway].flatten(0, 1).to(self.model.dtype)
                pooled[task] = self.model.pool_settled(settled, pathway)
        return {task: pooled[task] for task in data}

    def _entering(self, pathway: str, task: str, x: Tensor) -> Tensor:
        form = self.forms[self.model.tasks[task].modality, pathway]
        return form(x, self.model.image_frames)

    def _features(self, pathway: str, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """What heads see (B, D) of each of the inputs, from one forward of the pathway over all that are alike."""
        if not inputs:
            return ()
        found: dict[int, Tensor] = {}
        for shape in dict.fromkeys(x.shape[1:] for x in inputs):  # one forward, or one for each length of clips
            alike = {number: x for number, x in enumerate(inputs) if x.shape[1:] == shape}
            features = self.model.forward_features(torch.cat(list(alike.values())), modality=pathway)
            seen = self.model.head_drop(self.model.head_inputs(features, pathway))
            found |= zip(alike, seen.split([len(x) for x in alike.values()]), strict=True)
        return tuple(found[number] for number in range(len(inputs)))

    def _normalised(self, x: Tensor) -> Tensor:
        return normalize(x, self.model.spec) if x.dtype == torch.uint8 else x

    def _augmented(self, task: str, x: Tensor | Settled, labels: Tensor) -> tuple[Tensor | Settled, Tensor]:
        """Normalised inputs and targets: class numbers, or with mixup or a teacher class probabilities (B, classes)."""
        if not isinstance(x, Tensor):
            return x, labels
        if task in self.teachers:
            labels = self.teachers[task](one_frame(x, 1))
        x = self._normalised(x)
        if self.mixup and self.training:
            kept = torch.distributions.Beta(self.mixup, self.mixup).sample().item()
            x = kept * x + (1 - kept) * x.flip(0)
            if task in self.teachers:
                labels = kept * labels + (1 - kept) * labels.flip(0)
            else:
                labels = mixup_target(labels, self.model.tasks[task].num_classes, lam=kept)
        return x, labels
