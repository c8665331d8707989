"""Time of a forward pass and of a training step, against other implementations and against the machine.

    uv run benchmarks/speed.py
        r2plus1d18 and each pathway of unidual10, 34 and 152, inference and training, float32 and bfloat16, one clip or
        four images; some nine minutes on 2 idle cores
    uv run benchmarks/speed.py --models unidual34 --modalities video --batch 4 --rounds 7
    uv run --with pytorchvideo --with transformers benchmarks/speed.py --models unidual34 --modes inference
        also R(2+1)D-50 and TimeSformer
    uv run --with pytorchvideo --with transformers benchmarks/speed.py --models ircsn50 i3d50 c2d50 timesformer_base
        other families beside the networks that their weights come from
    uv run benchmarks/speed.py --models corrnet50 --upstream corrnet50=FILE.py
        beside an upstream that is no package: `network()` in FILE.py makes it, with weights that our name reads
    uv run benchmarks/speed.py --models r2plus1d18 unidual34 unidual_efficientnet_lite0 --modes inference \
            --engines openvino onnx --dtypes float32 int8 --threads 1
        engines that serve beside our own network; int8 beside our own float32
    uv run benchmarks/speed.py --device cuda --dtypes bfloat16 --batch 32 --compile --json speed.json
    uv run --with pytorchvideo --with transformers benchmarks/speed.py --device cuda --all --json cuda.json
        everything of a card: a network of every family, bfloat16, as a CUDA graph and compiled; `--all --tiny` is the
        same on small networks, to see on any machine that it runs

The other networks of the package (`r2d34`, `r2plus1d152`, ...) are these pathways: `--models` takes any name.

How it is measured: all competitors of a table and a large matrix product run in turn, round after round, and the
median counts, so that a machine that slows down slows all of them; CPU time stands beside wall time, since machines
are shared. Inference is `for_inference` against the others in evaluation mode, weights and input in the same type; a
training step is forward, cross entropy, backward and SGD, with autocast for bfloat16. "Conv3d" and the library of an
upstream hold the same weights; `difference` is how far logits are from those of our own network before it was folded,
in float32, relative to the largest. `ours is` says how much faster ours is: than the same network by time, than
another one by GFLOP/s (2 × the multiply-adds of convolutions and linear layers, 3 × that in training); `by CPU` says
it by CPU time. `share` is GFLOP/s over those of the matrix product; it can exceed 100%, because oneDNN's convolutions
can beat the library behind torch's matrix product. `memory` is what a training step keeps between forward and
backward, on CUDA the peak of a call above weights and input. With `--compile` everyone is compiled and `warm-up` is its
first call. On CUDA everyone runs as a CUDA graph, and float32 is TF32 in convolutions and products alike, also in what
`difference` is held against. With `--all` a table or a competitor that fails is named with its reason, and the rest
goes on. The last line is one JSON object, whose `failed` lists the same.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peers
import timm
import torch
from contestants import (
    ALL,
    DTYPES,
    INFERENCE,
    MATRIX,
    MATRIX_SIDE,
    MODELS,
    MODES,
    OURS,
    QUICK_SIDE,
    Contestant,
    Row,
    contestants,
)

from unidual_zoo.checks import first_line
from unidual_zoo.dtypes import INT8
from unidual_zoo.engines import ENGINES
from unidual_zoo.memory import keep_freed_memory
from unidual_zoo.spec import MODALITIES


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.keep_memory:
        keep_freed_memory()
    found: list[dict[str, Any]] = []
    machine = dict(device=options.device, threads=torch.get_num_threads(), torch=torch.__version__)
    if options.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
        torch.set_float32_matmul_precision("high")  # as cuDNN's convolutions have it anyway
    line = ""
    for case in cases(options):
        try:
            found.append(report(case, *compete(contestants(options, **case), options)))
        except Exception as error:
            if not options.all:
                raise
            # What one network lacks, such as memory, must not cost the others' figures.
            found.append({**case, "error": reason(error)})
            print(f"{' '.join(case.values())}: {reason(error)}", flush=True)
        result = {**machine, "rounds": options.rounds, "tables": found, "failed": failures(found)}
        line = json.dumps({"benchmark": "speed", **result})
        if options.json:
            options.json.write_text(line + "\n")  # after every table, since a card may be taken away
        if not let_go(options.device):
            print("the card answers no more: the other tables are left out", flush=True)
            break
    print(line)


def let_go(device: str) -> bool:
    """Frees what a table held; whether the device still answers, which a card with a faulty access in it does not."""
    torch.compiler.reset()  # of one function it compiles a few forms only, and every network here is one of the same
    gc.collect()
    if device == "cuda":
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            return False
    return True


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def failures(tables: list[dict[str, Any]]) -> list[str]:
    """The tables and rows that failed, by their names."""
    found = []
    for table in tables:
        name = " ".join(table[key] for key in ("model", "pathway", "mode", "dtype"))
        found += [name] if "error" in table else []
        found += [f"{name}: {row['name']}" for row in table.get("rows", ()) if "error" in row]
    return found


def cases(options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """The tables: a network, a pathway, a mode and a type each."""
    for name in options.models:
        with torch.device("meta"):
            pathways: Any = timm.create_model(name).pathways
        for pathway in pathways:
            for mode in options.modes if pathway in options.modalities else ():
                for dtype in options.dtypes if mode == INFERENCE else (d for d in options.dtypes if d != INT8):
                    yield dict(model=name, pathway=pathway, mode=mode, dtype=dtype)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help=f"(default: {', '.join(MODELS)})")
    parser.add_argument("--all", action="store_true", help="a network of every family, bfloat16, also compiled")
    parser.add_argument("--tiny", action="store_true", help="with --all: small networks and inputs, one round")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--modalities", nargs="+", choices=MODALITIES, default=list(MODALITIES))
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), help="(default: float32 and bfloat16)")
    parser.add_argument("--device", choices=list(MATRIX_SIDE), default="cpu")
    parser.add_argument("--batch", type=int, help="images or clips (default: 4 images, 1 clip)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compile", action="store_true", help="torch.compile for everyone")
    parser.add_argument(
        "--engines", nargs="+", choices=list(ENGINES), default=[], help="also run our network by these (inference)"
    )
    parser.add_argument(
        "--upstream",
        nargs="+",
        default=[],
        metavar="MODEL=FILE.py",
        help="`network()` there is MODEL as others have it",
    )
    parser.add_argument("--keep-memory", action="store_true", help="malloc as `unidual_zoo.memory` sets it")
    parser.add_argument("--compiled", action="store_true", help="also run our network by torch.compile")
    parser.add_argument("--json", type=Path, help="keep the last line in this file")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SIDE} pixels and one round: does it run at all")
    options = parser.parse_args(argv)
    if options.tiny and not options.all:
        parser.error("--tiny is of --all")
    options.quick = options.quick or options.tiny
    if options.quick:
        options.rounds = 1
    options.compiled = options.compiled or (options.all and not options.tiny)
    options.models = options.models or list(ALL if options.all else MODELS)
    options.dtypes = options.dtypes or (["bfloat16"] if options.all else ["float32", "bfloat16"])
    if options.device != "cpu" and (options.engines or INT8 in options.dtypes):
        parser.error("engines run on the CPU")
    for name, _, file in (pair.partition("=") for pair in options.upstream):
        try:
            peers.add_upstream(name, Path(file))
        except ValueError as error:
            parser.error(str(error))
    return options


def compete(entered: Iterator[Contestant], options: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """Runs everyone in turn, round after round; the rows, and why others have none.

    A contestant may fail with `--all`; ours and the matrix product, which the others are held against, may not.
    """
    racing: list[Row] = []
    failed: dict[str, str] = {}

    @contextlib.contextmanager
    def failing(name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not options.all or name in (OURS, MATRIX):
                raise
            failed[name] = reason(error)

    for name, make in entered:
        with failing(name):
            racing.append(make())
    for number in range(options.rounds + 1):
        for row in [row for row in racing if row.name not in failed]:
            with failing(row.name):
                cpu = time.process_time()
                seconds = on_the_clock(row.run, options.device)
                if number:  # the first round warms up
                    row.seconds.append(seconds)
                    row.cpu_seconds.append(time.process_time() - cpu)
    return [row for row in racing if row.name not in failed], failed


def on_the_clock(run: Callable[[], Any], device: str) -> float:
    """Seconds of one run: by the wall, or between two events on the card."""
    if device == "cpu":
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def report(case: dict[str, str], rows: list[Row], failed: dict[str, str]) -> dict[str, Any]:
    """Prints the table and returns it as plain data."""
    ours, matrix = rows[0], rows[-1]
    print("\n" + " ".join(case.values()))
    print(
        f"{'':28} {'ms':>9} {'CPU ms':>9} {'GFLOP/s':>9} {'share':>6} {'ours is':>8} {'by CPU':>8} {'memory':>9} "
        f"{'warm-up':>8}  difference (of the largest logit)"
    )
    found = []
    for row in rows:
        seconds = statistics.median(row.seconds)
        ratio = seconds / statistics.median(ours.seconds) if row.same else ours.rate / row.rate
        cpu = statistics.median(row.cpu_seconds)
        by_cpu = cpu / statistics.median(ours.cpu_seconds) if row.same else None
        cells = dict(
            name=row.name, seconds=seconds, cpu_seconds=cpu, gflops_per_second=row.rate / 1e9,
            share=row.rate / matrix.rate, ours_is=None if row in (ours, matrix) else ratio, ours_is_by_cpu=by_cpu,
            per="step" if row.same else "GFLOP", memory=row.memory, warm_up=row.warm_up, difference=row.difference,
        )  # fmt: skip
        found.append(cells)
        ours_is = f"{ratio:.2f}×" if cells["ours_is"] else ""
        ours_by_cpu = f"{by_cpu:.2f}×" if by_cpu else ""
        memory = "" if row.memory is None else f"{row.memory / 2**20:.0f} MiB"
        difference = "" if row.difference is None else f"{row.difference:.1e}"
        print(
            f"{row.name:28} {seconds * 1e3:9.1f} {cpu * 1e3:9.1f} {row.rate / 1e9:9.1f} {cells['share']:6.0%} "
            f"{ours_is:>8} {ours_by_cpu:>8} {memory:>9} {row.warm_up:7.1f}s  {difference}"
        )
    for name, why in failed.items():
        print(f"{name:28} {why}")
    print(end="", flush=True)
    return {**case, "rows": found + [dict(name=name, error=why) for name, why in failed.items()]}


if __name__ == "__main__":
    main()
