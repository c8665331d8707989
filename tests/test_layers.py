"""The package's layers: a module imports its own stage or an earlier one, and never the scripts around it."""

import ast
import inspect
from pathlib import Path

import unidual_zoo

ROOT = Path(unidual_zoo.__file__).parent
STAGES = [
    [
        "checks",
        "cores",
        "dtypes",
        "extras",
        "files",
        "lock",
        "memory",
        "names",
        "ports",
        "progress",
        "rowlog",
        "tabular",
    ],
    ["spec"],
    ["weights"],
    ["data"],
    ["models"],
    ["engines"],
    ["inputs", "scoring"],
    ["inference", "evaluation", "explain", "calibration", "export", "features", "timeline", "salient", "cluster"],
    ["demo", "report", "serving"],
    ["training"],
    ["cli"],
]
STAGE = {name: number for number, names in enumerate(STAGES) for name in names}


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def test_every_module_has_a_stage_and_imports_no_later_one():
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts == ("__init__",):
            continue
        assert parts[0] in STAGE, f"{path.name} belongs to no stage; the stages are {STAGES}"
        for name in imports(path):
            assert name.split(".")[0] not in ("benchmarks", "hub"), f"{path} imports {name}"
            assert name.split(".")[0] != "unidual" or parts == ("cli",), f"{path} imports {name}, the command line"
            if name.startswith("unidual_zoo."):
                assert STAGE[name.split(".")[1]] <= STAGE[parts[0]], f"{path} imports {name}, of a later stage"


def test_what_reads_data_does_not_know_what_makes_them():
    for path in (ROOT / "data").glob("*.py"):
        assert not any(name.startswith("unidual_zoo.data.synthetic") for name in imports(path)), path


def test_public_names():
    """What README promises from the import alone: typed, and each with what it says of itself."""
    assert (ROOT / "py.typed").is_file()
    for name in set(unidual_zoo.__all__) - {"data", "models"}:
        public = getattr(unidual_zoo, name)
        assert public.__doc__, name
        signature = inspect.signature(public)
        untyped = [key for key, value in signature.parameters.items() if value.annotation is value.empty]
        assert untyped == [], name
    assert callable(unidual_zoo.data.probe)
    assert callable(unidual_zoo.data.read_frames)
