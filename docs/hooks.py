"""What the site takes from elsewhere than docs/: pages at the repository's root, notebooks, what the code says itself.

mkdocs calls the `on_…` functions (`hooks` in mkdocs.yml). Nothing here is copied by hand: the pages of the command line
and of the recipes are made from the commands' own help and from the settings' own descriptions.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from unidual import app as cli
from unidual_zoo.models.family import families
from unidual_zoo.scoring import PROTOCOLS
from unidual_zoo.tabular import markdown_table
from unidual_zoo.training.recipes import RECIPES, Recipe, explained_settings
from unidual_zoo.weights import Metric

ROOT = Path(__file__).parents[1]
PAGES = {  # of the repository's root, as pages of the site
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "MODEL_CARD.md": "checkpoints.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s:]+)\)")  # in the text, to something of ours
MADE = re.compile(r"<!-- made: (\w+) .*?-->", re.DOTALL)  # what is put in on the site
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that have no file in docs/."""
    made = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in PAGES.items()}
    for notebook in sorted((ROOT / "docs").glob("notebooks/*.ipynb")):
        page = notebook.relative_to(ROOT / "docs").with_suffix(".md")
        made[page.as_posix()] = notebook_page(json.loads(notebook.read_text(encoding="utf-8")), notebook.name)
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between pages of the site, and puts in what code says."""
    uri = page.file.src_uri
    at_root = {made: name for name, made in PAGES.items()}
    linked = relinked(markdown, at_root.get(uri, f"docs/{uri}"), uri)
    return MADE.sub(lambda match: PARTS[match[1]](), linked)


# ---- pages of the repository ----------------------------------------------------------------------------------------


def relinked(markdown: str, source: str, uri: str) -> str:
    """The text of the repository's file `source` as that of the page `uri`; links to files outside it become names."""

    def replaced(match: re.Match[str]) -> str:
        text, target = match.groups()
        place, hash_, part = target.partition("#")
        if not place:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), place))
        to = PAGES.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        to = re.sub(r"\.ipynb$", ".md", to or "") or None
        if to is None:
            return text if file in text else f"{text} (`{file}`)"
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(uri) or '.')}{hash_}{part})"

    parts = FENCE.split(markdown)
    return "".join(part if number % 2 else LINK.sub(replaced, part) for number, part in enumerate(parts))


def notebook_page(notebook: dict[str, Any], name: str) -> str:
    """A notebook as a page that links to the file: its text, and its code as blocks."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    shown = [source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells]
    return "\n\n".join([*shown, f'<a href="../{name}" download>This page as a notebook</a>']) + "\n"


# ---- pages of the code ----------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command of the command line, from its own help."""
    group = typer.main.get_group(cli.app)
    context = typer.Context(group, info_name="unidual", **cli.HELP)
    parts = [_parameters(context)]
    for name in group.list_commands(context):
        command = group.commands[name]
        usage = typer.Context(command, info_name=name, parent=context)
        parts.append(
            f"## unidual {name}\n\n{_paragraphs(command.help or '')}\n\n```text\n{command.get_usage(usage)}\n```"
        )
        parts.append(_parameters(usage))
    return "\n\n".join(parts) + "\n"


def _parameters(context: Any) -> str:
    """A table of a command's arguments and options as its help describes them."""
    rows = []
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            rows.append((f"`{record[0].replace('|', '/')}`", _plain(record[1])))
    return markdown_table(("argument or option", "meaning"), rows)


def settings() -> str:
    """All settings of `--set`, from the descriptions of the fields."""
    parts = []
    for group, listed in explained_settings(Recipe()).items():
        title = group.split(".")[0].split(",")[0]
        rows = [
            (f"`{one.name}`", f"`{_value(one.value)}`", _plain(one.allowed), _plain(_with_example(one)))
            for one in listed
        ]
        parts.append(f"## {title}\n\n{group}\n\n" + markdown_table(("setting", "default", "allowed", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def recipes() -> str:
    """Every recipe: what it is for, its command, and the settings in which it differs from the defaults."""
    header = ("recipe", "what", "cost", "figures to expect")
    rows = [(f"[`{name}`](#{name})", _plain(one.about), one.cost, one.figures) for name, one in RECIPES.items()]
    parts = [markdown_table(header, rows)]
    defaults = Recipe().to_dict()
    for name, experiment in RECIPES.items():
        changed = {key: value for key, value in experiment.recipe.to_dict().items() if value != defaults[key]}
        table = markdown_table(
            ("setting", "value"), [(f"`{key}`", f"`{_value(value)}`") for key, value in changed.items()]
        )
        parts.append(f"## {name}\n\n{_plain(experiment.about)}.\n\n```bash\n{experiment.command}\n```\n\n{table}")
    return "\n\n".join(parts) + "\n"


def all_families() -> str:
    """Every family of networks, its names and its class's own words."""
    parts = []
    for family in families():
        kind = family.model_class
        names = ", ".join(f"`{name}`" for name in family.architectures)
        about = f"{family.about[:1].upper()}{family.about[1:]}."
        parts.append(f"## {kind.__name__}\n\n{about}\n\n{names}\n\n[Class](api.md#{_path(kind)})")
    return "\n\n".join(parts) + "\n"


def protocols() -> str:
    """Every protocol as the table of protocols has it, and the checkpoints whose authors' figures were measured so."""
    header = ("protocol", "clips", "begin", "frames/s", "crops", "positions", "averaged", "figures of")
    rows = []
    for name, one in PROTOCOLS.items():
        by = sorted({tag.partition(".")[0] for metric, tag in _upstream() if metric.protocol == name})
        rate, positions = "the spec's" if one.rate is None else f"{one.rate:g}", "all" if one.dense else "one"
        named = ", ".join(f"`{architecture}`" for architecture in by)
        rows.append((f"`{name}`", str(one.clips), one.starts, rate, str(one.crops), positions, one.average, named))
    return markdown_table(header, rows)


def _upstream() -> Iterator[tuple[Metric, str]]:
    for family in families():
        for tag, row in family.checkpoints.items():
            yield from ((metric, tag) for metric in row.upstream)


def _path(thing: type) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _with_example(setting: Any) -> str:
    return setting.meaning + (f" Such as `--set {setting.name}={setting.example}`." if setting.example else "")


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _paragraphs(text: str) -> str:
    return "\n\n".join(_plain(paragraph) for paragraph in text.split("\n\n"))


def _plain(text: str) -> str:
    """A line of help as Markdown: what looks like markup or a column is neither."""
    pieces = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(piece if number % 2 else _escaped(piece) for number, piece in enumerate(pieces))


def _escaped(text: str) -> str:
    return re.sub(r"([*_<|])", r"\\\1", text)


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands, "families": all_families, "protocols": protocols, "recipes": recipes, "settings": settings
}  # fmt: skip
