"""What the documentation shows holds: Python runs, commands parse, excerpts are of their files, links lead to files."""

import argparse
import ast
import importlib
import itertools
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.core
from fakes import film, grey_image
from media import scene

from unidual import app as cli
from unidual_zoo.checks import check_known
from unidual_zoo.models.summary import registered_names
from unidual_zoo.training.recipes import RECIPES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SCRIPTS = sorted(path for folder in ("benchmarks", "hub") for path in ROOT.glob(f"{folder}/*.py"))
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"\n]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BEGINNINGS = ("uv run ", "unidual ", "UNIDUAL_")  # of a command in the middle of a text
OTHERS = ("mkdocs", "pip", "pre-commit", "pytest")  # programs that are not ours
ROOMS = ("spec", "weights", "data", "models", "scoring", "inference", "evaluation", "explain", "features", "timeline")
ROOMS += ("salient", "cluster", "training", "cli")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(title, text) of the page's blocks in a language."""
    return [(title, text) for found, title, text in FENCE.findall(page.read_text()) if found == language]


def python_blocks(*, excerpts: bool) -> Iterator:
    for page in PAGES:
        for number, (title, text) in enumerate(blocks(page, "python")):
            if bool(title) == excerpts:
                yield pytest.param(title, text, id=f"{named(page)}-{number}")


# ---- Python ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("title", "text"), [*python_blocks(excerpts=False)])
def test_python_runs_as_it_stands(title, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    grey_image(tmp_path / "photo.jpg", 3)
    film(tmp_path / "clip.mp4", scene(20))
    exec(compile(text, "block", "exec"), {"__name__": "block"})
    assert ("print" in text) == bool(capsys.readouterr().out)


@pytest.mark.parametrize(("title", "text"), [*python_blocks(excerpts=True)])
def test_an_excerpt_is_what_stands_in_the_file(title, text):
    """Statement by statement, whatever their indentation."""
    shown = [ast.dump(node) for node in ast.parse(text).body]
    bodies = [getattr(node, "body", None) for node in ast.walk(ast.parse((ROOT / title).read_text()))]
    written = [[ast.dump(node) for node in body] for body in bodies if isinstance(body, list)]
    assert any(shown == body[start : start + len(shown)] for body in written for start in range(len(body)))


def test_names_of_the_package_are_those_of_something():
    for page in PAGES:
        for name in re.findall(rf"`((?:{'|'.join(ROOMS)})(?:\.\w+)+)`", page.read_text()):
            resolve(f"unidual_zoo.{name}")


def resolve(name: str) -> object:
    """What a dotted name stands for; an AttributeError if for nothing."""
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(resolve(module), attribute)


def test_a_family_needs_no_more_than_the_page_says():
    """The methods and attributes that the page shows or lists are all that the example overrides."""
    page = (ROOT / "docs/architecture.md").read_text()
    (network,) = (
        node
        for node in ast.parse((ROOT / "tests/models/tokennet.py").read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    methods = [node.name for node in network.body if isinstance(node, ast.FunctionDef)]
    assert [name for name in methods if name not in page] == []


# ---- commands -------------------------------------------------------------------------------------------------------


def commands() -> Iterator:
    """Every command that the pages and the scripts' docstrings show: of blocks whole, of texts perhaps in parts."""
    for page in PAGES:
        text = page.read_text()
        for _, block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                for command in re.split(r"\s&&\s", re.sub(r"(^|\s)#.*", "", line)):
                    if command.strip():
                        yield pytest.param(command, True, id=f"{named(page)}: {command.strip()}")
        for code in re.findall(r"`([^`]+)`", FENCE.sub("", text)):
            if code.startswith(BEGINNINGS):
                command = " ".join(code.split())
                yield pytest.param(command, False, id=f"{named(page)}: {command}")
    for script in SCRIPTS:
        for line in (ast.get_docstring(ast.parse(script.read_text())) or "").splitlines():
            if line.strip().startswith("uv run"):
                yield pytest.param(
                    re.split(r"\s{2,}(?=[^\s-])", line.strip())[0], True, id=f"{named(script)}: {line.strip()}"
                )


@pytest.fixture
def parse(monkeypatch):
    """Runs a program as far as its command line is read."""
    parse_args = argparse.ArgumentParser.parse_args

    def parsed(self, *arguments):
        parse_args(self, *arguments)
        sys.exit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    monkeypatch.setattr(typer.core.TyperCommand, "invoke", lambda self, context: None)

    def parse(program, arguments):
        monkeypatch.setattr(sys, "argv", [Path(program).name, *arguments])
        monkeypatch.syspath_prepend(str(ROOT / Path(program).parent))
        start = cli.main if program == "unidual" else lambda: runpy.run_path(str(ROOT / program), run_name="__main__")
        with pytest.raises(SystemExit) as end:
            start()
        return end.value.code

    return parse


@pytest.mark.parametrize(("command", "whole"), [*commands()])
def test_a_command_parses(command, whole, parse, capsys):
    words = [word.strip("[]") for word in shlex.split(command)]
    while words[0] == "uv" or "=" in words[0]:
        words = words[2:] if words[0] == "uv" else words[1:]
        while words[0] == "--with":
            words = words[2:]
    if words[0] in (*OTHERS, "bash"):
        assert all((ROOT / word).exists() for word in words if "/" in word)
        return
    if words[0] in ("accelerate", "torchrun"):
        words = ["unidual", *words[words.index("unidual") + 1 :]]
    program, *arguments = words
    assert program == "unidual" or (ROOT / program).is_file(), f"there is no {program}"
    if not arguments:  # it may do its work at once
        return
    if arguments[0] == "train" and len(arguments) > 1 and not arguments[1].isupper():
        check_known("recipe", arguments[1], RECIPES)
    named = {word for before, word in itertools.pairwise(words) if before == "--model" and word.islower()}
    assert {name for name in named if ":" not in name} <= set(registered_names())
    arguments = [word for before, word in itertools.pairwise(words) if word != "…" or before.startswith("--")]
    status = parse(program, arguments)
    lacking = re.search(r"Missing (argument|option)", capsys.readouterr().err)
    assert status == 0 or (lacking and not whole)


# ---- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            place, _, part = target.partition("#")
            found = page.parent / place
            assert found.exists(), f"{target} leads nowhere"
            if part:
                headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
                assert part in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for file in re.findall(r"\b((?:docs|tests|benchmarks|hub|unidual_zoo)/[\w./]+\.\w+)", text):
        assert (ROOT / file).exists(), f"there is no {file}"
