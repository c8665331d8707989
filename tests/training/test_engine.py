"""The recipe says how a run is trained, not the environment."""

import pytest
import torch
from accelerate import Accelerator

from unidual_zoo.training import engine
from unidual_zoo.training.engine import (
    check_engine,
    check_environment,
    engine_facts,
    make_accelerator,
    on_cpu,
    use_device,
)
from unidual_zoo.training.recipes import RunSettings

PLAIN = {"accumulate": 1, "precision": "no", "compile": "no"}
# What `accelerate launch` sets, asked for nothing but the script.
LAUNCHED = {
    "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False", "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False", "ACCELERATE_USE_CPU": "False", "OMP_NUM_THREADS": "1",
    "ACCELERATE_CPU_AFFINITY": "0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "is 4 and the recipe says accumulate=1: .* --set accumulate=4"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "is bf16 and the recipe says precision=no: .* --set precision=bf16"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "is fp8 and the recipe says precision=no"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "is INDUCTOR and the recipe says compile=no: .* compile=inductor"),
        ("ACCELERATE_DYNAMO_MODE", "max-autotune", "ACCELERATE_DYNAMO_MODE=max-autotune: no recipe trains like that"),
        ("ACCELERATE_DYNAMO_USE_DYNAMIC", "True", "ACCELERATE_DYNAMO_USE_DYNAMIC=True: no recipe"),
        ("ACCELERATE_USE_FSDP", "true", "ACCELERATE_USE_FSDP=true: no recipe trains like that, but with Distributed"),
        ("ACCELERATE_USE_FSDP", "1", "ACCELERATE_USE_FSDP=1: no recipe"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "ACCELERATE_USE_DEEPSPEED=true: no recipe"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "ACCELERATE_USE_MEGATRON_LM=true: no recipe"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "ACCELERATE_USE_PARALLELISM_CONFIG=true: no recipe"),
    ],
)
def test_what_the_environment_asks_for_beyond_the_recipe_is_refused(monkeypatch, variable, value, message):
    with pytest.raises(ValueError, match=message):
        check_environment(PLAIN, {**LAUNCHED, variable: value})
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        make_accelerator(RunSettings(), accumulate=1)


def test_what_a_launcher_sets_unasked_is_fine_and_so_is_what_the_recipe_says():
    other = {"accumulate": 2, "precision": "bf16", "compile": "eager"}
    for told in (PLAIN, other):
        check_environment(told, {})
        check_environment(told, LAUNCHED)
        check_environment(told, {**LAUNCHED, "ACCELERATE_USE_FSDP": "false"})
    asked = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"}
    check_environment(other, {**LAUNCHED, **asked, "ACCELERATE_DYNAMO_BACKEND": "EAGER"})


def test_an_engine_that_does_something_else_is_refused(monkeypatch):
    """Should a version of Accelerate listen to what is not looked for."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setattr(engine, "check_environment", lambda *args: None)
    with pytest.raises(ValueError, match=r"Accelerate is set up for .*accumulate=4.*, the recipe says .*accumulate=1"):
        make_accelerator(RunSettings(), accumulate=1)


def test_the_facts_of_an_engine():
    facts = engine_facts(make_accelerator(RunSettings(precision="bf16"), accumulate=3))
    assert facts.items() >= {"processes": 1, "distributed": "NO", "precision": "bf16", "accumulate": 3}.items()
    assert facts["compile"] == "no"


def test_an_engine_of_another_kind_is_refused():
    accelerator = Accelerator(cpu=True)
    check_engine(PLAIN, accelerator)
    accelerator.state.distributed_type = type(accelerator.distributed_type).FSDP
    with pytest.raises(ValueError, match="set up for FSDP, a recipe is trained with DistributedDataParallel"):
        check_engine(PLAIN, accelerator)
    with pytest.raises(ValueError, match=r"accumulate=1, .*says accumulate=2"):
        check_engine({**PLAIN, "accumulate": 2}, accelerator)


@pytest.mark.parametrize(
    ("asked", "there", "cpu"), [(None, False, True), (None, True, False), ("cuda", True, False), ("cpu", True, True)]
)
def test_a_run_is_on_the_cpu_where_nothing_is_faster_or_where_that_is_asked_for(monkeypatch, asked, there, cpu):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")  # what is set in its place is undone
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    if asked:
        use_device(asked)
    assert on_cpu() == cpu
    with pytest.raises(ValueError, match=r"no device 'cuda:1', allowed: cpu" + (", cuda" if there else "$")):
        use_device("cuda:1")
