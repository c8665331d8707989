"""Accelerate's engine, doing what the recipe says and nothing that the environment says.

`accelerate launch` and its configuration file speak through environment variables, of which Accelerate prefers some to
its arguments. What they ask for beyond the recipe is refused, and what Accelerate ended up with is compared with the
recipe: else `recipe.json` would not tell how a run was trained.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DynamoBackend
from accelerate.utils.environment import parse_flag_from_env

from unidual_zoo.checks import check_known
from unidual_zoo.training.recipes import RunSettings

DTYPES = {"no": None, "bf16": torch.bfloat16}
_OFF = ("", "0", "false", "no", "n", "f", "off", "none")
_SETTINGS = {  # variable -> the setting that it would override, and the value with which it asks for nothing
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("accumulate", "1"),
    "ACCELERATE_MIXED_PRECISION": ("precision", "no"),
    "ACCELERATE_DYNAMO_BACKEND": ("compile", "no"),
}
_OTHERS = (  # ways of training that no recipe describes
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH",
    "ACCELERATE_DYNAMO_USE_DYNAMIC",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION",
)
_MODE, _DEFAULT_MODE = "ACCELERATE_DYNAMO_MODE", "default"
CPU, _USE_CPU = "cpu", "ACCELERATE_USE_CPU"


def use_device(kind: str) -> None:
    """Has the runs of this process train on the CPU ("cpu") or on what torch has that is faster ("cuda", "mps", …).

    Raises:
        ValueError: there is no such device.
    """
    faster = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    check_known("device", kind, [CPU, *([faster.type] if faster else [])])
    os.environ[_USE_CPU] = str(kind == CPU).lower()


def on_cpu() -> bool:
    """Whether a run trains on the CPU: there is nothing faster, or it was asked for."""
    return parse_flag_from_env(_USE_CPU) or not torch.accelerator.is_available()


def make_accelerator(settings: RunSettings, *, accumulate: int) -> Accelerator:
    """Accelerate's engine, on the CPU where `on_cpu` says so.

    Raises:
        ValueError: the environment asks for something else than the recipe, or there is no such compiler.
    """
    told = {"accumulate": accumulate, "precision": settings.precision, "compile": settings.compile.lower()}
    check_known("compile", told["compile"], [backend.value.lower() for backend in DynamoBackend])
    check_environment(told, os.environ)
    AcceleratorState._reset_state()  # a process may train several recipes, one after the other
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=accumulate,
        dynamo_backend=settings.compile,
        cpu=on_cpu(),
    )
    check_engine(told, accelerator)
    return accelerator


def check_environment(told: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Raises a ValueError if a variable of Accelerate's asks for something else than the recipe; it names the variable.

    A variable with the value that `accelerate launch` gives it unasked asks for nothing.
    """
    for variable, (setting, nothing) in _SETTINGS.items():
        asked, said = environment.get(variable, nothing).lower(), str(told[setting])
        if asked not in (nothing, said):
            raise ValueError(
                f"{variable} is {environment[variable]} and the recipe says {setting}={said}: unset the variable "
                f"(accelerate launch sets it, too), or say --set {setting}={asked}"
            )
    others = {variable: environment.get(variable, "") for variable in _OTHERS}
    asked_for = [f"{variable}={value}" for variable, value in others.items() if value.lower() not in _OFF]
    if environment.get(_MODE, _DEFAULT_MODE).lower() not in (_DEFAULT_MODE, *_OFF):
        asked_for.append(f"{_MODE}={environment[_MODE]}")
    if asked_for:
        raise ValueError(
            f"{', '.join(asked_for)}: no recipe trains like that, but with DistributedDataParallel and the setting "
            "compile alone; unset the variable (accelerate launch and its configuration file set it, too)"
        )


def check_engine(told: Mapping[str, Any], accelerator: Accelerator) -> None:
    """Raises a ValueError if an engine does something else than the recipe says."""
    found = {name: value for name, value in engine_facts(accelerator).items() if name in told}
    if found != told:
        raise ValueError(f"Accelerate is set up for {_listed(found)}, the recipe says {_listed(told)}")
    kind = accelerator.distributed_type.value
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise ValueError(f"Accelerate is set up for {kind}, a recipe is trained with DistributedDataParallel")


def engine_facts(accelerator: Accelerator) -> dict[str, Any]:
    """What an engine was set up for, for the log."""
    plugin = accelerator.state.dynamo_plugin
    assert plugin is not None
    return {
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "distributed": accelerator.distributed_type.value,
        "precision": accelerator.mixed_precision,
        "accumulate": accelerator.gradient_accumulation_steps,
        "compile": plugin.backend.value.lower(),
    }


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in facts.items())
