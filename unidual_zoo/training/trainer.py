"""The training of a recipe, from the first step to the published network, on one process or many.

Started by `unidual train`, `accelerate launch` or `torchrun`. Accelerate wraps the objective in DistributedDataParallel
and does precision, accumulation and compilation; the loaders are ours and know their rank. A run is a function of its
recipe and the number of processes: killed at any moment and resumed, it goes on with the same losses.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import broadcast, gather_object, send_to_device
from timm.layers import convert_sync_batchnorm
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3, distribute_bn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from unidual_zoo.checks import check_known
from unidual_zoo.cores import limit_threads
from unidual_zoo.data.augment import RandAugment
from unidual_zoo.data.datasets import LABEL, PATH, MediaSet
from unidual_zoo.data.joint import JointBatch, JointDataset, JointLoader, JointSampler
from unidual_zoo.data.learnt import LEARNT, learnt_place, read_learnt, write_learnt
from unidual_zoo.data.shards import is_remote
from unidual_zoo.data.transforms import train_transform
from unidual_zoo.evaluation import PROTOCOLS, Report, evaluate, main_score
from unidual_zoo.memory import keep_freed_memory
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.pathways import to_channels_last
from unidual_zoo.names import counted, csv_cell, printable
from unidual_zoo.progress import Progress
from unidual_zoo.report.numbers import majority_baseline
from unidual_zoo.report.page import write_page
from unidual_zoo.rowlog import RowLog, RowTable
from unidual_zoo.scoring import ScoreFiles, score_files
from unidual_zoo.spec import IMAGE, VIDEO, InputSpec
from unidual_zoo.training.blending import Blender, Course, Level, blend, described, warn_of_few
from unidual_zoo.training.engine import DTYPES, engine_facts, make_accelerator
from unidual_zoo.training.fitting import fit_heads
from unidual_zoo.training.kept import GIGABYTE, FeatureKeeper, KeptScores, KeptViews, written_to
from unidual_zoo.training.meter import Meter
from unidual_zoo.training.network import build_model, export, recompute_norms, trained_weights
from unidual_zoo.training.objective import TOTAL, JointObjective, balanced_weights
from unidual_zoo.training.optimizers import check_optimizer, freeze, make_optimizer, make_schedule
from unidual_zoo.training.page import REPORT, run_page
from unidual_zoo.training.plan import Plan, TaskPlan, task_plans
from unidual_zoo.training.plots import plot_confusion, plot_curves
from unidual_zoo.training.recipes import DataSettings, ModelSettings, OptimSettings, Recipe, current_names
from unidual_zoo.training.rundir import (
    CURVES,
    END,
    FEATURES,
    LOG,
    RECIPE,
    ROWS,
    RunDirectory,
    RunError,
    end_of,
    write_whole,
)
from unidual_zoo.training.sources import read_sources, set_aside
from unidual_zoo.training.teachers import Teacher, find_teacher
from unidual_zoo.weights import EXPORT


def train(recipe: Recipe, *, out: str | Path, resume: bool = False, plan: Plan | None = None) -> dict[str, Report]:
    """Trains what the recipe says in the run directory `out`, and publishes it in `out`/export; the final reports.

    `plan` holds the files where they have been read already.

    Raises:
        RunError: the run cannot start or go on: its directory, a loss that is not finite, a full disk.
        LoaderError: a loader process died, or too many files cannot be read.
        ValueError: the recipe contradicts itself, the data or the model.
    """
    trainer = Trainer(recipe, out=out, resume=resume, plan=plan)
    try:
        trainer.fit()
        return trainer.publish()
    finally:
        trainer.close()


def finished(recipe: Recipe, *, out: str | Path) -> dict[str, Any] | None:
    """How the run in a directory ended: its `epochs`, `scores` and `reports` by task; None unless it is one of this
    recipe that has been published."""
    return end_of(Path(out), recipe.to_dict(), update=lambda saved: {**Recipe().to_dict(), **current_names(saved)})


class Trainer:
    """A run: everything that training needs, `done` steps into it."""

    def __init__(self, recipe: Recipe, *, out: str | Path, resume: bool = False, plan: Plan | None = None) -> None:
        check_known("protocol", recipe.run.protocol, PROTOCOLS)
        check_optimizer(recipe.optim)
        self.recipe = recipe
        self.accelerator = make_accelerator(recipe.run, accumulate=recipe.optim.accumulate)
        if self.accelerator.device.type == "cpu":
            keep_freed_memory()
            limit_threads()
        world = self.accelerator.num_processes
        self.run = RunDirectory(out, writes=self.accelerator.is_main_process)
        replaced = resume and self.run.has_checkpoint()  # the weights that `init` names are
        start = dataclasses.replace(recipe.model, init=None) if replaced else recipe.model

        teachers = {task: find_teacher(task, name) for task, name in recipe.data.teachers.items()}
        for teacher in teachers.values():
            teacher.to(self.accelerator.device)
        taught = {task: teacher.classes for task, teacher in teachers.items()}
        read = plan and (dict(plan.media), dict(plan.test_media))
        self.media, self.test_media = read or read_sources(recipe.data, seed=recipe.run.seed, taught=taught)
        self.plan = plan
        tested = {task: self.media[task] for task in self.test_media}
        rest, self.validation = set_aside(tested, recipe.data.validation, seed=recipe.run.seed, setting="validation")
        self.media |= rest
        self.media, held_out = set_aside(self.media, recipe.data.monitor, seed=recipe.run.seed)
        self.model = make_model(start, self.media, self.accelerator, seed=recipe.run.seed)
        self.averaged = make_average(self.model, decay=recipe.optim.ema)
        self.loader = make_loader(recipe.data, self.media, self.model.spec, self.accelerator, seed=recipe.run.seed)
        self.plain_objective = make_objective(self.model, recipe.optim, teachers, self.media)
        self.plain_objective.to(self.accelerator.device)
        plain_optimizer = make_optimizer(self.model, recipe.optim, world=world)
        self.schedule = make_schedule(plain_optimizer, recipe.optim, updates_per_epoch=self.updates_per_epoch)
        self.objective, self.optimizer = prepare(self.accelerator, self.plain_objective, plain_optimizer)

        self.blender = self._make_blender(held_out)
        self.first_levels: dict[str, Level] | None = None
        self.blended: int | None = None  # the step at which the losses got their weights

        self.done, self.best = 0, None
        self.disappointments = 0  # evaluations since the best score
        self.score: ScoreFiles = score_files  # between epochs
        self.kept: dict[str, KeptViews] = {}  # of tasks whose features are
        self._opened = contextlib.ExitStack()  # files of kept features
        self.final: dict[str, Report] | None = None  # of the network to publish, where it has been evaluated already
        self._logged: set[str] = set()
        self._begin(resume=resume)
        self.meter = Meter(
            self.accelerator,
            self.run,
            step=self.done,
            total=self.total_steps,
            per_epoch=self.steps_per_epoch,
            examples=recipe.data.batch_size * world,
            every=recipe.run.log_every,
        )
        if self.run.writes and self.run.kept is not None:
            self.meter.bar.write(printable(self._resumed_line()), file=sys.stderr)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of every process in an epoch."""
        return self.loader.sampler.steps_per_epoch

    @property
    def updates_per_epoch(self) -> int:
        """Updates of the weights in an epoch."""
        return self.steps_per_epoch // self.recipe.optim.accumulate

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, unless it ends early."""
        return self.recipe.optim.epochs * self.steps_per_epoch

    @property
    def ends_early(self) -> bool:
        """Whether the score has not become better for as many evaluations as the recipe waits."""
        return 0 < self.recipe.run.patience <= self.disappointments

    @property
    def published(self) -> TaskModel:
        """The network that is evaluated and published: the averaged one, if there is one."""
        return self.averaged.module if self.averaged else self.model

    def _begin(self, *, resume: bool) -> None:
        """Opens the run directory and goes on from its checkpoint. What refuses it on one process does on all."""
        files = {
            task: [part[task].fingerprint() for part in (self.media, self.test_media) if task in part]
            for task in self.media
        }
        state = refusal = None
        try:
            state = self.run.begin(
                {**self.recipe.to_dict(), "processes": self.accelerator.num_processes, "files": files},
                resume=resume,
                update=lambda saved: {**Recipe().to_dict(), "files": files, **current_names(saved)},
            )
        except RunError as error:
            refusal = str(error)
        # Only now has the main process written the recipe.
        if refusals := [text for text in gather_object([refusal]) if text is not None]:
            self.run.close()
            raise RunError(refusals[0])
        if state is not None:
            self.restore(state)
        seen = gather_object([(self.done, self.run.recipe_text())])
        if len(set(seen)) > 1:
            self.run.close()
            steps = ", ".join(str(step) for step, _ in seen)
            raise RunError(
                f"the processes see different runs, at steps {steps}: "
                f"{self.run.path} must be one directory that all machines share"
            )
        self.run.log("begin", step=self.done, **engine_facts(self.accelerator))

    def _resumed_line(self) -> str:
        """Where a resumed run is, for a reader."""
        if self.done >= self.total_steps or self.ends_early:
            return f"{self.run.path} has no steps left to make: what it learnt is evaluated and published"
        epoch = f"epoch {self.done // self.steps_per_epoch + 1} of {self.recipe.optim.epochs}"
        steps = f"step {self.done:,} of {self.total_steps:,}, in {epoch}"
        return f"{self.run.path} goes on after {steps}, with the files and settings that it began with ({RECIPE})"

    def fit(self) -> None:
        """The steps from `done` to the last, with a checkpoint now and then and an evaluation after every epoch."""
        accumulate = self.recipe.optim.accumulate
        save_every = -(-self.recipe.run.save_every // accumulate) * accumulate
        batches = self.loader.batches(self.done, self.done if self.ends_early else self.total_steps)
        self.objective.train()
        with self.loader.deaths_explained():
            if self.done < self.total_steps and not self.ends_early:
                self.keep_features()
            if self.done == 0 and not self.run.has_checkpoint():
                self.fit_heads()
                self.watch()
            if self.total_steps == 0:
                self.save()
            for batch in self.meter.waiting(batches):
                if self.blends_now():
                    self.blend()
                lr = max(group["lr"] for group in self.optimizer.param_groups)
                losses = self.training_step(batch)
                self.done += 1
                self.meter.add(losses, lr=lr)
                if self.done % self.steps_per_epoch == 0:
                    self.end_epoch()
                    if self.ends_early:
                        break
                elif self.done % save_every == 0:
                    self.save()

    def fit_heads(self) -> None:
        """Gives heads what least squares find, if the recipe asks for it: on all processes what the main one finds."""
        if not self.recipe.model.fit_heads:
            return
        labelled = {task: files for task, files in self.media.items() if task not in self.recipe.data.teachers}
        with self.meter.paused():
            losses = fit_heads(
                self.model,
                labelled,
                seed=self.recipe.run.seed,
                failed=self.loader.failed,
                kept=self.kept,
                class_weights=class_weights(self.recipe.optim, labelled),
                shard=(self.accelerator.process_index, self.accelerator.num_processes),
                batch_size=self.recipe.data.batch_size,
                workers=self.recipe.data.workers,
                file_seconds=self.recipe.data.file_seconds or None,
            )
            for weight in self.model.heads.parameters():
                broadcast(weight.data)
            if self.averaged is not None:
                self.averaged.set(self.model)
        self.run.log("heads", step=self.done, losses=losses)

    def keep_features(self) -> None:
        """Computes once what frozen layers make of the training files, so that the others learn from that alone."""
        folder, rank = self.run.path / FEATURES, self.accelerator.process_index
        with self.accelerator.autocast(), self.meter.paused():
            keeper = FeatureKeeper(self.plain_objective, self.loader, self.recipe, steps=self.total_steps)
            if self.run.writes and (line := keeper.line(folder)):
                self.meter.bar.write(printable(line), file=sys.stderr)
            if not keeper.views:
                return
            self.run.log("features", step=self.done, views=keeper.views)
            facts, room = keeper.facts(), self.recipe.data.feature_gigabytes * GIGABYTE - keeper.num_bytes()
            with written_to(folder):
                folder.mkdir(parents=True, exist_ok=True)
                log, tested = (
                    self._opened.enter_context(RowLog(folder / f"{name}{rank}{ROWS}", facts)) for name in ("", "tests-")
                )
            for row in Progress(keeper.rows(log), desc="features", unit="view", shown=self.run.writes):
                with written_to(folder):
                    log.append(row)
            self.score = KeptScores(tested, self.model, keeper.pathways, room=room)
        self.accelerator.wait_for_everyone()
        logs = [folder / f"{number}{ROWS}" for number in range(self.accelerator.num_processes)]
        self.kept = keeper.kept(self._opened.enter_context(contextlib.closing(RowTable(logs))))
        self.loader.dataset.kept |= self.kept

    def training_step(self, batch: JointBatch) -> dict[str, Tensor]:
        """One batch forward and backward and, after `accumulate` of them, an update; the losses."""
        torch.manual_seed(self._seed())
        with self.accelerator.accumulate(self.objective):
            losses = self.objective(send_to_device(batch.data, self.accelerator.device, non_blocking=True))
            self.accelerator.backward(losses[TOTAL])
            if self.accelerator.sync_gradients and self.recipe.optim.clip_norm is not None:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.accelerator.sync_gradients:
            updates = (self.done + 1) // self.recipe.optim.accumulate
            self.schedule.step_update(updates)
            if self.averaged is not None:
                self.averaged.update(self.model, step=updates)
        return losses

    def end_epoch(self) -> None:
        """Checkpoint and curves, and where it is due an evaluation."""
        self._sync_norms()
        self.watch()
        eval_every = self.recipe.run.eval_every
        if not (eval_every and self.test_media) or self.done // self.steps_per_epoch % eval_every:
            self.save()
            return
        self.run.check_finite(self.state())
        # What is published after the last epoch is evaluated here as it will be in the end, and then not again.
        last = self.done == self.total_steps and self.recipe.run.publish == "last" and not self.validation
        clips = None if last else self.recipe.run.eval_clips
        with self.meter.paused():
            seen_again = self.validation or self.test_media
            reports = self.evaluate(self.published, seen_again, clips=clips, score=self.score)
            score = float(np.mean([main_score(report) for report in reports.values()]))
            is_best = self.best is None or score > self.best
            self.best = score if is_best else self.best
            self.disappointments = 0 if is_best else self.disappointments + 1
            if clips is None and (last if self.recipe.run.publish == "last" else is_best):
                self.final = reports
            self.run.log(
                "evaluate",
                step=self.done,
                epoch=self.done // self.steps_per_epoch,
                curves=_scores(reports),
                best=is_best,
            )
            self.save(is_best=is_best)
            self._draw_curves()

    def watch(self) -> None:
        """Measures how the losses have come to overfit since the start of the run, if files are kept for it."""
        if self.blender is None:
            return
        with self.meter.paused():
            levels = self.blender.measure(self.plain_objective)
        self.first_levels = self.first_levels or levels
        courses = {name: Course.between(self.first_levels[name], level) for name, level in levels.items()}
        curves = {f"{side}/{name}": value for name, level in levels.items() for side, value in vars(level).items()}
        ratios = {f"ratio/{name}": course.ratio for name, course in courses.items() if math.isfinite(course.ratio)}
        self.run.log("overfitting", step=self.done, curves=curves | ratios)
        if self.done and self.run.writes:
            for line in described(courses):
                self.meter.bar.write(line, file=sys.stderr)

    def blends_now(self) -> bool:
        """Whether the losses are to get new weights before the next step."""
        kind, span = self.recipe.optim.blend, self.recipe.optim.blend_epochs * self.steps_per_epoch
        if kind == "no" or self.blended == self.done:
            return False
        return self.done == 0 or (kind == "online" and self.done % span == 0)

    def blend(self) -> None:
        """Gives the losses the weights of Gradient Blending, found from the network as it is."""
        assert self.blender is not None
        span = self.recipe.optim.blend_epochs * self.steps_per_epoch
        with self.meter.paused():
            courses = self.blender.courses(self.plain_objective, start=self.done, stop=self.done + span)
        self.plain_objective.weights = blend(courses)
        self.blended = self.done
        if self.run.writes:
            weights = ", ".join(f"{name} {weight:.2f}" for name, weight in self.plain_objective.weights.items())
            self.meter.bar.write(f"losses weigh from step {self.done}: {weights}", file=sys.stderr)
        facts = {
            name: {**vars(course), "weight": self.plain_objective.weights[name]} for name, course in courses.items()
        }
        self.run.log("blend", step=self.done, losses=facts)

    def evaluate(
        self,
        model: TaskModel,
        media: Mapping[str, MediaSet],
        *,
        clips: int | None = None,
        still: bool = False,
        pathway: str | None = None,
        score: ScoreFiles = score_files,
    ) -> dict[str, Report]:
        """The report of every task's files, which the processes share."""
        protocol = PROTOCOLS[self.recipe.run.protocol]
        reports = {}
        for task, files in media.items():
            part = evaluate(
                model,
                files,
                protocol=dataclasses.replace(protocol, clips=clips or protocol.clips, still=still),
                task=task,
                pathway=pathway,
                batch_size=self.recipe.data.batch_size,
                workers=self.recipe.data.workers,
                file_seconds=self.recipe.data.file_seconds or None,
                dtype=DTYPES[self.recipe.run.precision],
                shard=(self.accelerator.process_index, self.accelerator.num_processes),
                score=score,
            )
            parts = gather_object([dataclasses.replace(part, files=())])  # all processes know the files
            reports[task] = Report.merge([dataclasses.replace(other, files=part.files) for other in parts])
        return reports

    def save(self, *, is_best: bool = False) -> None:
        """A checkpoint."""
        self.meter.flush()
        self._share_failures()
        self._sync_norms()
        self.run.save(self.state(), best=is_best)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds. It needs no random state: every step begins with a seed of its own."""
        optimizer = self.optimizer.state_dict()
        return {
            "model": self.model.state_dict(),
            "ema": self.averaged and self.averaged.module.state_dict(),
            "optimizer": {**optimizer, "state": {str(index): kept for index, kept in optimizer["state"].items()}},
            "progress": {
                "step": self.done,
                "best": self.best,
                "disappointments": self.disappointments,
                "failed": self.loader.failed,
                "blended": self.blended,
                "weights": self.plain_objective.weights,
                "levels": {name: vars(level) for name, level in (self.first_levels or {}).items()},
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        if self.averaged is not None:
            self.averaged.module.load_state_dict(state["ema"])
        kept = {int(index): value for index, value in state["optimizer"]["state"].items()}
        self.optimizer.load_state_dict({**state["optimizer"], "state": kept})
        self.done, self.best = state["progress"]["step"], state["progress"]["best"]
        self.disappointments = state["progress"].get("disappointments", 0)
        self.loader.failed = state["progress"]["failed"]
        self.blended = state["progress"].get("blended")  # older versions wrote none of these
        self.plain_objective.weights = state["progress"].get("weights", self.plain_objective.weights)
        self.first_levels = {
            name: Level(**level) for name, level in state["progress"].get("levels", {}).items()
        } or None
        self._logged = set(self.loader.failed)
        self.schedule.step_update(self.done // self.recipe.optim.accumulate)

    def publish(self) -> dict[str, Report]:
        """The weights without the heads that only training needs: evaluated, and written to export/."""
        self.accelerator.wait_for_everyone()
        self.model.load_state_dict(trained_weights(self.run.path, checkpoint=self.recipe.run.publish))
        if self.recipe.run.recompute_norms:
            torch.manual_seed(self._seed())
            self.plain_objective.mixup = 0.0  # as in testing
            batches = self.loader.batches(0, self.recipe.run.recompute_norms)
            device = self.accelerator.device
            recompute_norms(self.plain_objective, (send_to_device(batch.data, device) for batch in batches))
            self._sync_norms()
            self.final = None
        self.run.check_finite(self.state())
        frames_alone = self._frames_alone() if self.recipe.run.baselines else {}
        self.model.drop_auxiliary_heads()
        reports = self.final if self.final and not self.validation else self.evaluate(self.model, self.test_media)
        baselines = {
            task: majority_baseline(self.media[task].labels, report) | frames_alone.get(task, {})
            for task, report in reports.items()
        }
        reports = {
            task: dataclasses.replace(report, facts={**report.facts, "baselines": baselines[task]})
            for task, report in reports.items()
        }
        if self.run.writes:
            export(self.model, self.run.path / EXPORT)
            learnt = [file for part in (self.media, self.validation) for media in part.values() for file in media.files]
            write_whole(
                self.run.path / EXPORT / LEARNT,
                lambda path: write_learnt(learnt, path, before=learnt_before(self.recipe.model)),
            )
            for task, report in reports.items():
                self._write_report(task, report)
            self._draw_curves()
            page = run_page(self.run.path, self.recipe, reports, plan=self._plans(), unreadable=self.loader.failed)
            write_whole(self.run.path / REPORT, lambda path: write_page(page, path))
        self._opened.close()
        if self.run.writes:
            self.run.remove_features()
        self.run.log(
            END,
            step=self.done,
            epochs=self.done // self.steps_per_epoch,
            scores={task: report.metrics() for task, report in reports.items()},
            reports={task: report.to_dict() for task, report in reports.items()},
        )
        return reports

    def _plans(self) -> Sequence[TaskPlan]:
        """What each task was trained on and tested with."""
        return self.plan.tasks if self.plan else task_plans(self.recipe.data, self.media, self.test_media)

    def _frames_alone(self) -> dict[str, dict[str, float]]:
        """What the frames of the test videos tell without their order, by task; one clip of a video is looked at.

        It is the accuracy of the image pathway, where that has learnt the task from single frames. Else it is that of
        the network itself on the clip's middle frame, repeated: how much it loses where nothing moves; a network that
        learnt from frames may do better. A network of an image pathway alone sees nothing but frames.
        """
        told = {}
        for task, media in self.test_media.items():
            if media.modality != VIDEO or self.model.default_pathway(VIDEO) != VIDEO:
                continue
            beside = IMAGE in self.model.pathways and task in self.model.pathway_tasks(IMAGE)
            what = "frames alone, by the image pathway" if beside else "frames alone, as still clips"
            options: dict[str, Any] = dict(pathway=IMAGE) if beside else dict(still=True)
            report = self.evaluate(self.model, {task: media}, clips=1, **options)[task]
            told[task] = {what: main_score(report)}
        return told

    def _draw_curves(self) -> None:
        if self.run.writes:
            write_whole(self.run.path / CURVES, lambda path: plot_curves(self.run.path / LOG, path))

    def _make_blender(self, held_out: Mapping[str, MediaSet]) -> Blender | None:
        if not held_out:
            return None
        if self.accelerator.num_processes > 1:
            raise ValueError("monitor and blend measure losses on one process, and give loss_weights for many")
        recipe, device = self.recipe, self.accelerator.device
        if recipe.optim.blend != "no":
            warn_of_few({task: len(media) for task, media in held_out.items()}, monitor=recipe.data.monitor)
        kept = dataclasses.replace(recipe.data, epoch_size=None, mix="equal")
        return Blender(
            training=self.loader,
            held_out=make_loader(kept, held_out, self.model.spec, self.accelerator, seed=recipe.run.seed),
            optimizer=self._optimizer_alone,
            accumulate=recipe.optim.accumulate,
            clip_norm=recipe.optim.clip_norm,
            to_device=lambda batch: send_to_device(batch.data, device),
            autocast=lambda: self.accelerator.autocast(),
            seed=recipe.run.seed,
        )

    def _optimizer_alone(self, model: TaskModel) -> tuple[Optimizer, Scheduler]:
        """The recipe's optimizer and schedule for a copy of the network on this process."""
        optimizer = make_optimizer(model, self.recipe.optim, world=1)
        return optimizer, make_schedule(optimizer, self.recipe.optim, updates_per_epoch=self.updates_per_epoch)

    def close(self) -> None:
        """Ends the progress bar and the logs."""
        self._opened.close()
        self.meter.bar.close()
        self.run.close()

    def _write_report(self, task: str, report: Report) -> None:
        """A task's confusion matrix, and the list of what was predicted."""
        classes = self.media[task].classes
        scored = [result for result in report.results if result.top]
        pairs = [(result.top[0] if result.right() else result.label, result.top[0]) for result in scored]
        confusion, predictions = self.run.path / f"confusion-{task}.png", self.run.path / f"predictions-{task}.csv"
        write_whole(confusion, lambda path: plot_confusion(pairs, classes, path, title=task))
        write_whole(predictions, lambda path: write_predictions(report, classes, path))

    def _seed(self) -> int:
        words = [self.recipe.run.seed, self.done, self.accelerator.process_index]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def _sync_norms(self) -> None:
        """Averages the BatchNorm statistics of the processes, which each computes from its own examples."""
        if self.accelerator.num_processes > 1:
            for model in filter(None, (self.model, self.averaged and self.averaged.module)):
                distribute_bn(model, self.accelerator.num_processes, reduce=True)

    def _share_failures(self) -> None:
        """Lets all processes know, and logs, which files could not be read. Raises RunError if they are too many."""
        for failed in gather_object([self.loader.failed]):
            self.loader.failed |= failed
        for file in sorted(set(self.loader.failed) - self._logged):
            self.run.log("unreadable", step=self.done, file=file, reason=self.loader.failed[file])
            if self.run.writes:
                self.meter.bar.write(
                    printable(f"unreadable training file: {file}: {self.loader.failed[file]}"), file=sys.stderr
                )
        self._logged = set(self.loader.failed)
        if len(self._logged) > self.recipe.data.max_failed:
            most = self.recipe.data.max_failed
            raise RunError(f"{counted(len(self._logged), 'training file')} could not be read, max_failed is {most}")


def make_model(
    settings: ModelSettings, media: Mapping[str, MediaSet], accelerator: Accelerator, *, seed: int
) -> TaskModel:
    """The network on its device, with what is not to learn frozen. Weights that nothing else gives follow the seed.

    Raises:
        ValueError: the settings do not fit the model, the data or the device.
    """
    if settings.sync_norms and accelerator.device.type == "cpu":
        raise ValueError("sync_norms needs GPUs, the run is on the CPU")
    torch.manual_seed(seed)
    model = build_model(settings, media)
    model.to(device=accelerator.device)
    to_channels_last(model)
    model.set_grad_checkpointing(settings.grad_checkpointing)
    if settings.sync_norms:
        convert_sync_batchnorm(model)  # in place; torch's own would lose the activations in timm's norms
    freeze(model, settings.freeze)
    return model


def learnt_before(settings: ModelSettings) -> frozenset[str]:
    """What knows the files again that the weights which a run starts from have learnt from, if it lies beside them."""
    if settings.init is not None:
        return read_learnt(Path(settings.init, EXPORT, LEARNT))
    place = learnt_place(settings.model) if settings.pretrained else None
    return read_learnt(place) if place else frozenset()


def make_average(model: TaskModel, *, decay: float) -> ModelEmaV3 | None:
    """The moving average of a network's weights, None for no decay."""
    return ModelEmaV3(model, decay=decay, use_warmup=True) if decay else None


def make_objective(
    model: TaskModel, settings: OptimSettings, teachers: Mapping[str, Teacher], media: Mapping[str, MediaSet]
) -> JointObjective:
    """The losses of the network, for training on these files."""
    labelled = {task: files for task, files in media.items() if task not in teachers}
    return JointObjective(
        model,
        settings.loss_weights,
        label_smoothing=settings.label_smoothing,
        mixup=settings.mixup,
        freeze_norms=settings.freeze_norms,
        auxiliary_frames=settings.auxiliary_frames,
        teachers=teachers,
        class_weights=class_weights(settings, labelled),
    )


def class_weights(settings: OptimSettings, media: Mapping[str, MediaSet]) -> dict[str, Tensor] | None:
    """The weights (classes,) of each task's classes in its losses, None if every file weighs alike."""
    if settings.class_weights == "no":
        return None
    return {task: balanced_weights(files.labels, len(files.classes)) for task, files in media.items()}


def make_loader(
    settings: DataSettings, media: Mapping[str, MediaSet], spec: InputSpec, accelerator: Accelerator, *, seed: int
) -> JointLoader:
    """This process's batches. An epoch is a whole number of updates."""
    sizes = {task: len(data.files) for task, data in media.items()}
    per_update = settings.batch_size * accelerator.num_processes * accelerator.gradient_accumulation_steps
    wanted = settings.examples_per_epoch(sizes)
    sampler = JointSampler(
        sizes,
        batch_size=settings.batch_size,
        epoch_size=max(1, wanted // per_update) * per_update,
        mix=settings.mix,
        seed=seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    dataset = JointDataset(
        media,
        clip=spec.clip,
        transform=train_transform(spec, short_sides=settings.short_sides, flip=settings.flip),
        augment=RandAugment(settings.rand_augment) if settings.rand_augment else None,
        seed=seed,
        num_workers=settings.workers,
        file_seconds=settings.file_seconds or None,
    )
    return JointLoader(dataset, sampler, max_failed=settings.max_failed, pin=accelerator.device.type == "cuda")


def prepare(
    accelerator: Accelerator, objective: JointObjective, optimizer: Optimizer
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """The two as Accelerate runs them on this process: distributed, compiled, in the precision of the recipe."""
    wrapped, stepper = accelerator.prepare(objective, optimizer)
    for module in wrapped.modules():
        if isinstance(module, DistributedDataParallel):
            module.broadcast_buffers = False  # else each step gives all the first process's BatchNorm statistics
    return wrapped, stepper


def _scores(reports: Mapping[str, Report]) -> dict[str, float]:
    """The metrics of every task as curves: `{"task/top-1": 12.5, ...}`."""
    return {f"{task}/{name}": value for task, report in reports.items() for name, value in report.metrics().items()}


def write_predictions(report: Report, classes: Sequence[str], path: Path) -> None:
    """The test files as a list path,label,prediction that `read_media` reads; a file that failed has no prediction."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file)
        rows.writerow((PATH, LABEL, "prediction"))
        for result in report.results:
            predicted = classes[result.top[0]] if result.top else ""
            names = [csv_cell(name) for name in (classes[result.label], predicted)]
            file = report.files[result.index]
            rows.writerow((file if is_remote(file) else os.path.abspath(file), *names))
