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
        beside an upstream that is no package: `network()` in FILE.py makes it, with weights that our checkpoint
        filter reads
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
import copy
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import peers
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unidual_zoo
from unidual_zoo.checks import first_line
from unidual_zoo.data.synthetic import toy
from unidual_zoo.dtypes import INT8
from unidual_zoo.engines import ENGINES
from unidual_zoo.memory import keep_freed_memory
from unidual_zoo.models.pathways import to_channels_last
from unidual_zoo.models.summary import count_multiply_adds
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO

MODELS = ("r2plus1d18", "unidual10", "unidual34", "unidual152")
BATCH = {IMAGE: 4, VIDEO: 1}
INFERENCE, TRAINING = MODES = ("inference", "training")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, INT8: torch.float32}  # what torch computes in
MATRIX, OURS, COMPILED = "matrix product", "unidual-zoo", "torch.compile"
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
QUICK_SIDE = 32
ALL: dict[str, dict[str, Any]] = {  # of every family a network, and what makes it tiny
    "r2plus1d18": dict(width=1 / 16, depths=(1, 1, 1, 1)),
    "unidual34_aux": dict(width=1 / 16, depths=(1, 1, 1, 1)),
    "unidual152": dict(width=1 / 16, depths=(1, 1, 1, 1)),
    "unidual_efficientnet_lite0": dict(trunk="test_efficientnet"),
    "ircsn50": dict(width=1 / 16, depths=(1, 1, 1, 1)),
    "i3d50": dict(width=1 / 16, depths=(1, 1, 1, 1)),
    "corrnet50": dict(width=1 / 16, depths=(2, 1, 1), correlations=((1,), (0,))),
    "timesformer_base": dict(embed_dim=48, depth=1, num_heads=4),
    "uniformerv2_base_patch16_224": dict(trunk_args=dict(embed_dim=48, depth=2, num_heads=4), global_blocks=1),
    "vjepa2_1_vit_base": dict(embed_dim=48, depth=1, num_heads=4),
}
ALL_BATCH = {IMAGE: 64, VIDEO: 16}
CALIBRATION = 8  # files


@dataclass
class Row:
    """A competitor: what it runs, how long each round took (seconds), what it keeps for the backward pass (bytes)."""

    name: str
    run: Callable[[], Any]
    flops: float
    same: bool = False
    memory: int | None = None
    difference: float | None = None
    warm_up: float = 0.0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """FLOP/s."""
        return self.flops / statistics.median(self.seconds)

    def compare(self, exact: Tensor | None) -> None:
        """Notes how far the logits of a run are from the exact ones, relative to the largest."""
        if exact is not None:
            self.difference = float((self.run().float() - exact).abs().max() / exact.abs().max())


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


# ---- who competes ---------------------------------------------------------------------------------------------------


Contestant = tuple[str, Callable[[], Row]]  # its name, and what makes its row


def contestants(
    options: argparse.Namespace, *, model: str, pathway: str, mode: str, dtype: str
) -> Iterator[Contestant]:
    """Ours, the same network by others in two memory layouts, other networks, and the matrix product."""
    torch.manual_seed(0)
    made: Any = timm.create_model(model, **(ALL.get(model, {}) if options.tiny else {}))
    ours = peers.Pathway(made, pathway, made.default_task(pathway, pathway))
    is_tiny = options.tiny and model in ALL
    same, theirs_failed = None, None
    try:
        same = None if is_tiny and model in peers.UPSTREAM else peers.same_network(model, ours)
    except Exception as error:  # upstream's library may be of another version
        theirs_failed = error
    ours = ours.to(options.device).eval()
    frames = () if pathway == IMAGE else (made.spec.clip.length,)
    x = batch(options, pathway, (made.in_chans, *frames, *made.spec.crop))
    if mode == INFERENCE:
        with torch.inference_mode():
            exact = ours(x)
        served = unidual_zoo.for_inference(made, dtype=DTYPES[dtype], modality=pathway)
        fast: nn.Module = peers.Pathway(served, pathway, ours.task)
    else:
        exact, fast = None, copy.deepcopy(ours)
        to_channels_last(fast)
    flops = count_multiply_adds(ours, x) * 2
    racing: list[tuple[str, nn.Module, Tensor, argparse.Namespace]] = [(OURS, fast, x, options)]
    if theirs_failed is not None:
        yield peers.UPSTREAM[model][0], partial(_raise, theirs_failed)
    elif same is None:
        is_missing = not (is_tiny and model in peers.UPSTREAM)
        print(f"{model}, {pathway}: no other form of it is {'installed' if is_missing else 'tiny'}")
    else:
        whose, theirs = same[0], same[1].to(options.device).eval()
        racing.append((f"{whose}, as shipped", theirs, x, options))
        if any(weight.ndim == 5 for weight in theirs.parameters()):
            racing.append((f"{whose}, channels_last", with_layout(theirs), to_layout(x), options))
    if mode == TRAINING and options.compiled:
        compiled = argparse.Namespace(**{**vars(options), "compile": True})
        racing.append((COMPILED, copy.deepcopy(fast), x, compiled))
    for name, network, strided, chosen in racing:
        make = partial(row_of, name, network, strided, flops, chosen, mode=mode, dtype=DTYPES[dtype], exact=exact)
        yield name, partial(make, same=name != OURS)
    if mode == INFERENCE:
        yield from engines(options, made, ours, x, flops, exact, dtype=dtype)
    for name, (module, shape, build) in peers.OTHERS[pathway].items() if model in MODELS else ():
        if options.quick or not peers.is_installed(module):
            print(f"{name}: {'left out' if options.quick else 'not installed'}")
            continue
        x = batch(options, pathway, shape)
        yield name, partial(row_of_another, name, build, x, options, mode=mode, dtype=dtype)
    side = MATRIX_SIDE[options.device] // (8 if options.quick else 1)
    a = torch.randn(side, side, device=options.device).to(DTYPES[dtype])
    yield MATRIX, lambda: Row(MATRIX, lambda: a @ a, 2 * side**3)


def _raise(error: Exception) -> Row:
    raise error


def engines(
    options: argparse.Namespace,
    made: Any,
    ours: peers.Pathway,
    x: Tensor,
    flops: float,
    exact: Tensor | None,
    *,
    dtype: str,
) -> Iterator[Contestant]:
    """Our network run by engines, as far as they compute in the type, and by torch.compile.

    int8 is calibrated on few of the packaged examples: weights are random, so that its difference says little.
    """

    def by_engine(name: str) -> Callable[[], Any]:
        files = calibration(ours.pathway) if dtype == INT8 else None
        served = unidual_zoo.for_inference(made, engine=name, dtype=dtype, modality=ours.pathway, calibration=files)
        return lambda: served(x, modality=ours.pathway, task=ours.task)

    def by_compiler() -> Callable[[], Any]:
        network = unidual_zoo.for_inference(made, dtype=dtype, modality=ours.pathway, compile=True)
        cast = x.to(DTYPES[dtype])
        return lambda: network(cast, modality=ours.pathway, task=ours.task)

    runs: list[tuple[str, Callable[[], Callable[[], Any]]]] = []
    for name in options.engines:
        if dtype in ENGINES[name].runs_in:
            runs.append((f"{name}, {dtype}", partial(by_engine, name)))
        else:
            print(f"{name}: it does not compute in {dtype}")
    if options.compiled and dtype != INT8:
        runs.append((COMPILED, by_compiler))
    for name, prepare in runs:
        yield name, partial(row_of_engine, name, prepare, flops, options, exact=exact)


def calibration(modality: str) -> tuple[str, ...]:
    """Some packaged examples."""
    return (toy.images if modality == IMAGE else toy.videos)("train", count=CALIBRATION).files


def batch(options: argparse.Namespace, pathway: str, shape: tuple[int, ...]) -> Tensor:
    """Noise (B, C, [T,] H, W)."""
    if options.quick and not options.engines:
        shape = (*shape[:-2], QUICK_SIDE, QUICK_SIDE)
    usual = ALL_BATCH if options.all and options.device == "cuda" else BATCH
    return torch.randn(options.batch or usual[pathway], *shape, device=options.device)


def to_layout(x: Tensor) -> Tensor:
    """Images, clips or filters with channels last in memory, anything else as it is."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=layouts.get(x.ndim, torch.contiguous_format))


def with_layout(network: nn.Module) -> nn.Module:
    """A copy with channels last in memory; torch's own `to` takes no network that has filters of both ranks."""
    network = copy.deepcopy(network)
    for weight in network.parameters():
        weight.data = to_layout(weight.data)
    return network


def row_of(
    name: str,
    network: nn.Module,
    x: Tensor,
    flops: float,
    options: argparse.Namespace,
    *,
    mode: str,
    dtype: torch.dtype,
    exact: Tensor | None = None,
    same: bool = False,
) -> Row:
    """A row that runs the network once a call: its forward pass, or a whole training step."""
    if mode == INFERENCE:
        network = network.to(dtype)
        x = x.to(dtype)
    call = torch.compile(network) if options.compile else network
    if mode == INFERENCE:
        network.eval()
        row = Row(name, torch.inference_mode()(lambda: call(x)), flops, same)
    else:
        network.train()
        row = Row(name, training_step(network, call, x, dtype), 3 * flops, same)
    return warmed_up(row, options, exact=exact, trained=network if mode == TRAINING else None)


def row_of_another(
    name: str, build: Callable[[], nn.Module], x: Tensor, options: argparse.Namespace, *, mode: str, dtype: str
) -> Row:
    """The row of a network that is not ours."""
    network = build().to(options.device)
    return row_of(name, network, x, count_multiply_adds(network, x) * 2, options, mode=mode, dtype=DTYPES[dtype])


def row_of_engine(
    name: str,
    prepare: Callable[[], Callable[[], Tensor]],
    flops: float,
    options: argparse.Namespace,
    *,
    exact: Tensor | None,
) -> Row:
    """The row of our network in the form that `prepare` gives it."""
    return warmed_up(Row(name, torch.inference_mode()(prepare()), flops, same=True), options, exact=exact)


def warmed_up(
    row: Row, options: argparse.Namespace, *, exact: Tensor | None = None, trained: nn.Module | None = None
) -> Row:
    """The row after its first run, which is timed; what it keeps in memory, and how far it is from the exact logits."""
    begin = time.perf_counter()
    if options.device == "cuda":
        row.memory, row.run = on_cuda(row.run, options)
    elif trained is not None:
        row.memory = saved_bytes(trained, row.run)
    else:
        row.run()
    row.warm_up = time.perf_counter() - begin
    row.compare(exact)
    return row


def training_step(
    network: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype
) -> Callable[[], Tensor]:
    """Forward, cross entropy, backward, SGD; by autocast if the type is not the weights' own."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    labels = torch.arange(len(x), device=x.device)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
            logits = call(x)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def saved_bytes(network: nn.Module, run: Callable[[], Any]) -> int:
    """What a step keeps for its backward pass, without weights: bytes of the storages that autograd saves."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(saved.values())


def on_cuda(run: Callable[[], Any], options: argparse.Namespace) -> tuple[int, Callable[[], Any]]:
    """The peak of memory (bytes) of what is run, and the same as a CUDA graph.

    The graphs of a table lie in the same memory, which is enough for the largest of them: no run reads what another
    left there.
    """
    held = torch.cuda.memory_allocated()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is captured must have run before, on another stream
        for _ in range(2):  # which compile, choose kernels and make the optimizer's state
            run()
        torch.cuda.reset_peak_memory_stats()
        run()
    torch.cuda.current_stream().wait_stream(side)
    peak = torch.cuda.max_memory_allocated() - held
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=options.pool):
        out = run()

    def replay(_kept: Callable[[], Any] = run) -> Any:  # the graph reads its weights and input where they lie
        graph.replay()
        return out

    return peak, replay


# ---- the race -------------------------------------------------------------------------------------------------------


def compete(entered: Iterator[Contestant], options: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """Runs everyone in turn, round after round; the rows, and why others have none.

    A contestant may fail with `--all`; ours and the matrix product, which the others are held against, may not.
    """
    racing: list[Row] = []
    failed: dict[str, str] = {}
    options.pool = torch.cuda.graph_pool_handle() if options.device == "cuda" else None

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
        f"{'warm-up':>8}  difference"
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
