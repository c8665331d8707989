"""What a check has found, as plain data for JSON and as one page of HTML that needs nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from unidual_zoo.data.checking.entries import Entry
from unidual_zoo.data.checking.examine import Finding
from unidual_zoo.data.checking.verdicts import FAULTS, Duplicates, Fault
from unidual_zoo.names import counted, printable
from unidual_zoo.spec import IMAGE, VIDEO

BINS = 12  # of a histogram
LISTED = 1000  # rows of a table in HTML; the JSON has all
STEPS = (1, 2, 2.5, 5, 10)  # of a bin's width, times a power of ten


def make_report(
    title: str,
    entries: Sequence[Entry],
    findings: Sequence[Finding],
    faults: Sequence[Fault],
    duplicates: Sequence[Duplicates],
    skipped: Sequence[tuple[str, str]],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Everything as plain data; `summary` is what one looks at first."""
    kinds = Counter(fault.kind for fault in faults)
    faulty = {fault.entry.name for fault in faults}
    noted = [finding for finding in findings if finding.warnings and finding.name not in faulty]
    return {
        "title": title,
        "summary": {
            "files": len(entries),
            "images": sum(entry.modality == IMAGE for entry in entries),
            "videos": sum(entry.modality == VIDEO for entry in entries),
            "bytes": sum(max(0, finding.size) for finding in findings),
            "hours": round(sum(finding.duration or 0 for finding in findings) / 3600, 3),
            **{kind: kinds[kind] for kind in FAULTS},
            "duplicates across splits": sum(group.across for group in duplicates),
            "exact duplicates": sum(group.kind == "exact" for group in duplicates),
            "near duplicates": sum(group.kind == "near" for group in duplicates),
            "skipped": len(skipped),
        },
        "settings": settings,
        "duplicates": [
            {
                "kind": group.kind,
                "across": group.across,
                "labels_differ": group.labels_differ,
                "files": [{"file": each.name, "split": each.split, "label": each.label} for each in group.entries],
            }
            for group in duplicates
        ],
        "faults": [
            {"file": name.name, "split": name.split, "label": name.label, "kind": kind, "reason": reason}
            for name, kind, reason in sorted(faults, key=lambda fault: (FAULTS.index(fault.kind), fault.entry.name))
        ],
        "notes": [{"file": finding.name, "reason": "; ".join(finding.warnings)} for finding in noted],
        "classes": _classes(entries, faulty),
        "histograms": _histograms(entries, findings),
    }


def _classes(entries: Sequence[Entry], faulty: set[str]) -> list[dict[str, Any]]:
    """The number of files of each label and split, and how many of them have a fault."""
    counts = Counter((entry.split, entry.label, entry.modality) for entry in entries)
    bad = Counter((entry.split, entry.label, entry.modality) for entry in entries if entry.name in faulty)
    return [
        {"split": key[0], "label": key[1], "modality": key[2], "files": counts[key], "faults": bad[key]}
        for key in sorted(counts)
    ]


def _histograms(entries: Sequence[Entry], findings: Sequence[Finding]) -> list[dict[str, Any]]:
    histograms = []
    for modality in (IMAGE, VIDEO):
        found = [finding for entry, finding in zip(entries, findings, strict=True) if entry.modality == modality]
        sizes = [f"{each.width}×{each.height}" for each in found if each.width]
        numbers = {
            "duration, seconds": [each.duration for each in found if each.duration is not None],
            "short side, pixels": [min(each.width, each.height) for each in found if each.width and each.height],
            "file size, MB": [each.size / 1e6 for each in found if each.size > 0],
        }
        names = {
            "frames per second": [f"{each.rate:.4g}" for each in found if each.rate],
            "width × height": sizes,
            "codec": [each.codec for each in found if each.codec],
        }
        for what, values in numbers.items():
            if values:
                histograms.append({"modality": modality, "of": what, "bars": histogram(values)})
        for what, values in names.items():
            if values:
                histograms.append({"modality": modality, "of": what, "bars": most_common(values)})
    return histograms


def histogram(values: Sequence[float]) -> list[tuple[str, int]]:
    """(range, count) of at most BINS + 1 bins with round edges; empty ones at both ends are left out."""
    lowest, highest = min(values), max(values)
    width = _round_step((highest - lowest) / BINS) if highest > lowest else max(abs(highest), 1)
    first = math.floor(lowest / width)
    counts = Counter(math.floor(value / width) - first for value in values)
    edges = [f"{(first + i) * width:g}–{(first + i + 1) * width:g}" for i in range(max(counts) + 1)]
    return [(edge, counts[i]) for i, edge in enumerate(edges)]


def _round_step(step: float) -> float:
    power = 10 ** math.floor(math.log10(step))
    return next(round_step * power for round_step in STEPS if round_step * power >= step * (1 - 1e-9))


def most_common(values: Sequence[str]) -> list[tuple[str, int]]:
    """(value, count), the most frequent first; those beyond BINS are counted together."""
    counts = Counter(values).most_common()
    others = sum(count for _, count in counts[BINS:])
    return counts[:BINS] + ([(f"{len(counts) - BINS} others", others)] if others else [])


def to_html(report: dict[str, Any]) -> str:
    """The page. Whatever a file or a class is called, it stays text there."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"printable": lambda text: _valid(printable(text)), "counted": counted}
    template = environment.from_string(
        files("unidual_zoo.data.checking").joinpath("report.html").read_text(encoding="utf-8")
    )
    return template.render(listed=LISTED, **report)


def _valid(text: str) -> str:
    """The text without halves of characters, which no encoding can write."""
    return text.encode("utf-8", "backslashreplace").decode()
