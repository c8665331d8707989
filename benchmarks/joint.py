"""A step of joint training, on images and clips at once, against a step on each: how long, and where it goes.

    uv run benchmarks/joint.py
        unidual_efficientnet_lite0 and unidual34_aux, two images and two clips, SGD; ten minutes of CPU
    uv run benchmarks/joint.py --models unidual_efficientnet_lite0 --images 8 --clips 8 --optimizer adamw --rounds 5
    uv run benchmarks/joint.py --models unidual34_aux --dtype bfloat16 --json joint.json

Who runs, in turn, round after round; the median counts, CPU time beside wall time since machines are shared:

    joint       forward, all losses, backward and update as `unidual train` does them, in one step
    separate    the same network with the image task alone and with the clips' alone, a step of each; with its auxiliary
                losses, if it has them: together they do to the same examples what the joint step does
    joint, …    the joint step with one thing changed: an optimizer that is fused or goes from tensor to tensor, weights
                that are not stored with channels last

`joint is` says how many times as long the others take. `difference` is how far the weights are from those of the joint
step after one step, relative to how far that has moved them. Then follow the operators in which a joint step spends
most time, by torch.profiler, each with its own share. `--system-malloc` leaves freed memory with the system, as
training did before. The last line is one JSON object. Measured figures: docs/results/joint.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from race import processor, tell
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from unidual_zoo.memory import keep_freed_memory
from unidual_zoo.models.pathways import to_channels_last
from unidual_zoo.spec import IMAGE, VIDEO, InputSpec
from unidual_zoo.training.objective import TOTAL, JointObjective
from unidual_zoo.training.optimizers import make_optimizer
from unidual_zoo.training.recipes import OptimSettings

MODELS = ("unidual_efficientnet_lite0", "unidual34_aux")
TASKS = {"images": (IMAGE, 10), "videos": (VIDEO, 10)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
JOINT, SEPARATE = "joint", "separate"
OPERATORS = 12  # that are listed
SEED = 0
TINY = InputSpec(resize=32, crop=(32, 32))

Data = Mapping[str, tuple[Tensor, Tensor]]


@dataclass
class Row:
    """What is run in a round, and what each round took (seconds)."""

    name: str
    run: Callable[[], Any]
    difference: float
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


class Step:
    """A network in training: each call is a step on the same batch."""

    def __init__(
        self, name: str, data: Data, options: argparse.Namespace, *, channels_last: bool = True, **of_optimizer: bool
    ) -> None:
        torch.manual_seed(SEED)
        small: dict[str, Any] = {"spec": TINY, "num_frames": 2} if options.quick else {}
        model: Any = timm.create_model(name, tasks={task: TASKS[task] for task in data}, **small)
        if channels_last:
            to_channels_last(model)
        self.objective = JointObjective(model).train()
        self.data, self.dtype = data, DTYPES[options.dtype]
        self.optimizer = make_optimizer(model, OptimSettings(optimizer=options.optimizer), world=1)
        for group in self.optimizer.param_groups:
            group |= of_optimizer

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            loss = self.objective(self.data)[TOTAL]
        loss.backward()
        self.optimizer.step()

    def moved(self) -> dict[str, Tensor]:
        """How a step moves each weight."""
        weights: nn.Module = self.objective.model
        before = {name: weight.detach().clone() for name, weight in weights.named_parameters()}
        torch.manual_seed(SEED)  # of the frames that the auxiliary losses draw
        self()
        return {name: weight.detach() - before[name] for name, weight in weights.named_parameters()}


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.system_malloc:
        keep_freed_memory()
    found = [measure(name, options) for name in options.models]
    machine = dict(cpu=processor(), threads=torch.get_num_threads(), torch=torch.__version__)
    settings = {name: getattr(options, name) for name in ("images", "clips", "optimizer", "dtype", "system_malloc")}
    tell({"benchmark": "joint", **machine, **settings, "rounds": options.rounds, "tables": found}, options.json)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="what it computes in, by autocast")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--changed", action="store_true", help="also run the joint step with one thing changed")
    parser.add_argument("--system-malloc", action="store_true", help="leave malloc as the system has it")
    parser.add_argument("--json", type=Path, help="keep the last line in this file")
    parser.add_argument("--quick", action="store_true", help="tiny inputs and one round: does it run at all")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds = 1
    return options


def batch(name: str, options: argparse.Namespace) -> Data:
    """Noise in the shapes that the network was made for."""
    with torch.device("meta"):
        spec: InputSpec = timm.create_model(name).spec  # pyright: ignore[reportAssignmentType]
    length, size = (2, TINY.crop) if options.quick else (spec.clip.length, spec.crop)
    images, clips = torch.randn(options.images, 3, *size), torch.randn(options.clips, 3, length, *size)
    return {"images": (images, torch.arange(len(images)) % 10), "videos": (clips, torch.arange(len(clips)) % 10)}


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The table and the profile of a network."""
    data = batch(name, options)
    joint = Step(name, data, options)
    moved = joint.moved()
    parts = [Step(name, {task: data[task]}, options) for task in data]
    for part in parts:
        part()
    rows = [Row(JOINT, joint, 0.0), Row(SEPARATE, lambda: [part() for part in parts], float("nan"))]
    changes: dict[str, dict[str, bool]] = {
        "fused": dict(fused=True, foreach=False), "tensor by tensor": dict(fused=False, foreach=False),
        "contiguous weights": dict(channels_last=False),
    }  # fmt: skip
    for change, arguments in changes.items() if options.changed else ():
        step = Step(name, data, options, **arguments)
        other = step.moved()
        apart = sum(float((other[key] - moved[key]).square().sum()) for key in moved)
        difference = (apart / sum(float(moved[key].square().sum()) for key in moved)) ** 0.5
        rows.append(Row(f"{JOINT}, {change}", step, difference))
    for _ in range(options.rounds):
        for row in rows:
            begin, cpu = time.perf_counter(), time.process_time()
            row.run()
            row.seconds.append(time.perf_counter() - begin)
            row.cpu.append(time.process_time() - cpu)
    return report(name, rows, operators(joint), options)


def operators(step: Step) -> list[dict[str, Any]]:
    """The operators of a step, those that take most time of their own first: name, calls, CPU seconds, share."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [
        dict(name=event.key, calls=event.count, seconds=event.self_cpu_time_total / 1e6,
             share=event.self_cpu_time_total / total)
        for event in events[:OPERATORS]
    ]  # fmt: skip


def report(name: str, rows: list[Row], spent: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Prints the table and returns it as plain data."""
    print(f"\n{name}: {options.images} images, {options.clips} clips, {options.optimizer}, {options.dtype}")
    print(f"{'':28} {'wall s':>8} {'CPU s':>8} {'joint is':>9} {'by CPU':>7}  difference")
    first, table = rows[0], []
    for row in rows:
        seconds, cpu = statistics.median(row.seconds), statistics.median(row.cpu)
        by_wall, by_cpu = seconds / statistics.median(first.seconds), cpu / statistics.median(first.cpu)
        difference = None if row.difference != row.difference else row.difference
        table.append(
            dict(name=row.name, seconds=seconds, cpu_seconds=cpu, joint_is=by_wall, joint_is_by_cpu=by_cpu,
                 difference=difference)
        )  # fmt: skip
        told = "" if difference is None else f"{difference:.1e}"
        print(f"{row.name:28} {seconds:8.2f} {cpu:8.2f} {by_wall:8.2f}× {by_cpu:6.2f}×  {told}")
    for event in spent:
        print(f"    {event['share']:6.1%} {event['seconds']:8.3f} s {event['calls']:6} × {event['name']}")
    return {"model": name, "rows": table, "operators": spent}


if __name__ == "__main__":
    main()
