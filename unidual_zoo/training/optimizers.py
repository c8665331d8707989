"""Which parameters learn, and how fast: frozen layers, weight decay, layer decay, the schedule of the learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from timm.models import group_parameters
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from unidual_zoo.checks import check_known
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.pathways import pathway_of
from unidual_zoo.training.recipes import SCHEDULES, OptimSettings

TRUNK = "trunk"
UNFIT = ("adahessian", "adafactorbv", "kron")


def freeze(model: TaskModel, part: int | str) -> list[str]:
    """Stops the gradients of the first layers (stem, stage 1, ...), of the TRUNK, and of pathways without a head; the
    names of what stays as it is.

    Raises:
        ValueError: that is all there is.
    """
    first = 0 if part == TRUNK else int(part)
    matcher = model.group_matcher(coarse=True)
    layers: Any = group_parameters(model, matcher, reverse=True)  # name -> number of its layer
    idle = {pathway for pathway in model.pathways if not model.pathway_tasks(pathway)}
    if not 0 <= first <= max(layers.values()):
        raise ValueError(f"freeze must be 0 to {max(layers.values())} layers or {TRUNK}, got {first}")
    if part == TRUNK:
        model.freeze_trunk()
    for name in layers:
        if layers[name] < first or pathway_of(name) in idle:
            model.get_parameter(name).requires_grad_(False)
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


def check_optimizer(settings: OptimSettings) -> None:
    """Raises a ValueError for an optimizer or schedule that cannot be; it names the nearest of those that can."""
    name = settings.optimizer.lower()
    check_known("optimizer", name.rpartition("_")[2], map(str, list_optimizers()))
    if any(kind in name for kind in UNFIT):
        raise ValueError(f"optimizer {settings.optimizer!r} cannot be used: {', '.join(UNFIT)} and their variants need "
                         "second derivatives, or keep what a checkpoint cannot hold")  # fmt: skip
    if name in ("sgd", "nesterov") and not settings.momentum:
        raise ValueError(f"optimizer={settings.optimizer} needs a momentum above 0; without it: optimizer=momentum")
    check_known("schedule", settings.schedule, SCHEDULES)


def make_optimizer(model: TaskModel, settings: OptimSettings, *, world: int) -> Optimizer:
    """timm's optimizer of that name; its learning rate grows with the examples per update (VMZ: × number of GPUs).

    Weights are decayed but for biases, what the network exempts (names, or timm's wildcards) and, unless `decay_norms`,
    the scales of norms.

    Raises:
        ValueError: see `check_optimizer`.
    """
    check_optimizer(settings)
    undecayed = [name for name, weight in model.named_parameters() if _undecayed(name, weight, settings)]
    undecayed += sorted(model.no_weight_decay())
    rules: dict[str, Any] = dict(no_weight_decay_list=undecayed, weight_decay_exclude_1d=False)
    if settings.layer_decay is None:
        groups = param_groups_weight_decay(model, settings.weight_decay, **rules)
    else:
        groups = param_groups_layer_decay(model, settings.weight_decay, layer_decay=settings.layer_decay, **rules)
    if settings.head_lr != 1:
        groups = [part for group in groups for part in _with_heads_apart(group, model, settings.head_lr)]
    lr = settings.lr * world * settings.accumulate
    return create_optimizer_v2(groups, settings.optimizer, lr=lr, momentum=settings.momentum)


def _with_heads_apart(group: Mapping[str, Any], model: TaskModel, share: float) -> Iterator[dict[str, Any]]:
    """A group of parameters as two, of which heads learn at a `share` of the rate; a part without any is left out."""
    heads = {id(weight) for weight in model.heads.parameters()}
    scale = group.get("lr_scale", 1.0)
    rest = [weight for weight in group["params"] if id(weight) not in heads]
    if rest:
        yield {**group, "params": rest}
    if len(rest) < len(group["params"]):
        own = [weight for weight in group["params"] if id(weight) in heads]
        yield {**group, "params": own, "lr_scale": scale * share}


def make_schedule(optimizer: Optimizer, settings: OptimSettings, *, updates_per_epoch: int) -> Scheduler:
    """timm's schedule, stepped with the number of updates made: a linear warm-up, then the schedule over what is left.

    A warm-up of a single update, which would be made at `warmup_lr`, is left out.

    Raises:
        ValueError: the schedule is unknown or needs a metric, or the warm-up is longer than the training.
    """
    check_known("schedule", settings.schedule, SCHEDULES)
    warmup = settings.warmup_epochs if settings.epochs and settings.warmup_epochs * updates_per_epoch > 1 else 0
    left = max(settings.epochs, 1) - warmup
    if left <= 0:
        raise ValueError(f"warmup_epochs {settings.warmup_epochs:g} must be less than epochs {settings.epochs}")
    schedule, _ = create_scheduler_v2(
        optimizer,
        settings.schedule,
        num_epochs=left,  # pyright: ignore[reportArgumentType]  (fractions are fine)
        warmup_epochs=warmup,  # pyright: ignore[reportArgumentType]
        warmup_prefix=True,
        warmup_lr=settings.warmup_lr,
        decay_milestones=[epoch - warmup for epoch in settings.milestones],  # pyright: ignore[reportArgumentType]
        decay_rate=settings.decay_rate,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
    )
    assert schedule is not None
    schedule.step_update(0)
    return schedule


def _undecayed(name: str, weight: nn.Parameter, settings: OptimSettings) -> bool:
    is_bias = name.rsplit(".", 1)[-1].startswith("bias")  # an LSTM's are called bias_ih_l0, ...
    return is_bias or (weight.ndim == 1 and not settings.decay_norms)
