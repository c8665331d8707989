"""What the site's hooks make: pages of the code that leave nothing out, and links that hold on the site."""

import re
import runpy
from pathlib import Path

import pytest

from unidual.app import app
from unidual_zoo.models.summary import registered_names
from unidual_zoo.scoring import PROTOCOLS
from unidual_zoo.training.recipes import RECIPES, Recipe

DOCS = Path(__file__).parents[1] / "docs"
HOOKS = runpy.run_path(str(DOCS / "hooks.py"))


def first_column(table: str) -> set[str]:
    return {row.split(" | ")[0].removeprefix("| ") for row in table.splitlines() if row.startswith("| ")}


def test_every_command_stands_with_its_options():
    sections = dict(re.findall(r"^## unidual (\S+)\n(.*?)(?=^## |\Z)", HOOKS["commands"](), re.MULTILINE | re.DOTALL))
    names = {one.name or one.callback.__name__.replace("_", "-") for one in app.registered_commands}
    assert set(sections) == names
    assert {re.sub(" <.*>", "", name) for name in first_column(sections["predict"])} >= {
        "`files...`", "`--model`", "`--top`", "`--json`", "`-h, --help`"
    }  # fmt: skip
    assert "Labels for each file. [default: 5]" in sections["predict"]
    assert "Exit status 1 if a file failed" in sections["predict"]


def test_everything_listed_in_the_code_stands_on_the_pages():
    assert set(re.findall(r"^\| `(\w+)` ", HOOKS["settings"](), re.MULTILINE)) == set(Recipe().to_dict())
    assert re.findall(r"^## (\S+)$", HOOKS["recipes"](), re.MULTILINE) == list(RECIPES)
    assert first_column(HOOKS["protocols"]()) - {"protocol", "---"} == {f"`{name}`" for name in PROTOCOLS}
    listed = set(re.findall(r"`(\w+)`", HOOKS["all_families"]()))
    assert {name.partition(".")[0] for name in registered_names()} - listed <= {"tokennet", "tokennet_video"}


def test_what_is_put_in_is_what_pages_ask_for():
    asked = [name for page in DOCS.rglob("*.md") for name in HOOKS["MADE"].findall(page.read_text())]
    assert sorted(asked) == sorted(HOOKS["PARTS"])


@pytest.mark.parametrize(
    ("source", "uri", "link", "expected"),
    [
        ("README.md", "index.md", "[a](docs/data.md#shards)", "[a](data.md#shards)"),
        ("README.md", "index.md", "[a](docs/notebooks/predict.ipynb)", "[a](notebooks/predict.md)"),
        ("docs/results/toy.md", "results/toy.md", "[a](../../MODEL_CARD.md)", "[a](../checkpoints.md)"),
        ("docs/data.md", "data.md", "[a](../README.md#models)", "[a](index.md#models)"),
        ("docs/data.md", "data.md", "[a](../tests/media.py)", "a (`tests/media.py`)"),
        ("docs/data.md", "data.md", "[tests/media.py](../tests/media.py)", "tests/media.py"),
        ("docs/data.md", "data.md", "[a](https://example.org/b.md) [c](#d)", "[a](https://example.org/b.md) [c](#d)"),
        ("docs/data.md", "data.md", "```\n[a](../README.md)\n```", "```\n[a](../README.md)\n```"),
    ],
)
def test_links_between_files_become_links_between_pages(source, uri, link, expected):
    assert HOOKS["relinked"](link, source, uri) == expected


def test_help_is_no_markup():
    assert HOOKS["_plain"]("local-dir:… <b> of `a_b` *c* | d_e") == r"local-dir:… \<b> of `a_b` \*c\* \| d\_e"
