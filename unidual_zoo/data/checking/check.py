"""Every file of a data set examined by several processes, and what comes of it written to a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unidual_zoo.cores import usable_cores
from unidual_zoo.data.checking.entries import Entry, find_entries
from unidual_zoo.data.checking.examine import Finding, examine
from unidual_zoo.data.checking.report import make_report, to_html
from unidual_zoo.data.checking.state import appended, read_state, write_finding
from unidual_zoo.data.checking.verdicts import files_to_skip, find_duplicates, find_fault, left_to_people
from unidual_zoo.data.guarded import read_guarded
from unidual_zoo.data.limits import FILE_MEMORY, check_seconds
from unidual_zoo.data.media import MediaError, PathLike
from unidual_zoo.data.skipping import write_skip_list
from unidual_zoo.progress import Progress

STATE, SKIP_LIST, REPORT, PAGE = "state.jsonl", "skip.txt", "report.json", "report.html"


@dataclass(frozen=True)
class CheckSettings:
    """How files are checked, and what they must be.

    `file_seconds`: that one may take; 0: any number. `file_memory`: bytes that one may take. `min_frames`: of a video.
    `min_contrast`: between the brightest and the darkest part, of 255; below it a file is blank.
    """

    workers: int = usable_cores()
    file_seconds: float = 60.0
    file_memory: int = FILE_MEMORY
    min_frames: int = 2
    min_contrast: int = 6

    def __post_init__(self) -> None:
        check_seconds(self.file_seconds)
        for name in ("workers", "file_memory", "min_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")


def check_data(
    source: PathLike, out: PathLike, *, settings: CheckSettings | None = None, progress: bool = False
) -> dict[str, Any]:
    """Checks the files of a folder or CSV list (`find_entries`); see `check_entries`."""
    return check_entries(
        find_entries(source), out, title=os.fspath(source), settings=settings or CheckSettings(), progress=progress
    )


def check_entries(
    entries: Iterable[Entry], out: PathLike, *, title: str, settings: CheckSettings, progress: bool = False
) -> dict[str, Any]:
    """Checks every entry -> the report, which is also written to the folder `out`, in HTML and JSON, with a skip list.

    What has been found is kept there at once. Checked again, a file is decoded only if its size or time of change is
    another, or if it met a limit. What was found of files that are no longer listed stays out of the report.

    Raises:
        ValueError: two entries have one name.
    """
    entries, out = list(entries), Path(out)
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError(f"{title}: some files have the same name")
    out.mkdir(parents=True, exist_ok=True)
    found = _examine_all(entries, out / STATE, settings, progress)
    findings = [found[entry.name] for entry in entries]
    judge = partial(find_fault, min_frames=settings.min_frames, min_contrast=settings.min_contrast)
    faults = [fault for entry, finding in zip(entries, findings, strict=True) if (fault := judge(entry, finding))]
    duplicates = find_duplicates(entries, findings, {fault.entry.name for fault in faults})
    skipped = files_to_skip(faults, duplicates)
    report = make_report(title, entries, findings, faults, duplicates, skipped, asdict(settings))
    comments = [
        f"files of {title} to leave out, a path a line, a tab, the reason",
        *left_to_people(duplicates, skipped),
    ]
    write_skip_list(out / SKIP_LIST, skipped, comments=comments)
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (out / PAGE).write_text(to_html(report), encoding="utf-8")
    return report


def _examine_all(entries: list[Entry], state: Path, settings: CheckSettings, progress: bool) -> dict[str, Finding]:
    """The finding about every entry by name: those of the state that still hold, and new ones, which are added."""
    known = read_state(state)
    found: dict[str, Finding] = {}
    for entry in entries:
        finding = known.get((entry.name, *entry.stamp()))
        if finding is not None and not finding.limited:
            found[entry.name] = finding
    left = {entry.name: entry for entry in entries if entry.name not in found}
    results = read_guarded(
        examine,
        ((name, (entry,)) for name, entry in left.items()),
        workers=min(settings.workers, max(1, len(left))),
        seconds=settings.file_seconds,
        memory=settings.file_memory,
    )
    bar = Progress(total=len(entries), initial=len(found), unit="file", desc="checking", shown=progress)
    with appended(state) as file, bar:
        for name, result in results:
            if isinstance(result, MediaError):
                result = Finding(name, *left[name].stamp(), error=result.reason, limited=True)
            found[name] = result
            write_finding(file, result)
            bar.update()
    return found
