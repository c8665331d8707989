"""What is wrong with each file, which files are duplicates of which, and which of them a data set is better without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from unidual_zoo.data.checking.duplicates import exact_duplicates, near_duplicates
from unidual_zoo.data.checking.entries import Entry
from unidual_zoo.data.checking.examine import Finding
from unidual_zoo.data.datasets import TESTS
from unidual_zoo.names import counted
from unidual_zoo.spec import VIDEO

UNREADABLE, TRUNCATED, DAMAGED, SHORT, BLANK = FAULTS = ("unreadable", "truncated", "damaged", "too short", "blank")
EXACT, NEAR = "exact", "near"
_CUT = re.compile(r"it ends early|truncated")
_DAMAGE = re.compile(r"packets promise|undecodable|damaged frame|empty packet|as damaged|packets may be missing")


class Fault(NamedTuple):
    """What is wrong with a file: one of FAULTS, and the reason in a sentence."""

    entry: Entry
    kind: str
    reason: str


class Duplicates(NamedTuple):
    """Files that are the same: by their bytes (EXACT), or by how they look (NEAR)."""

    kind: str
    entries: tuple[Entry, ...]

    @property
    def across(self) -> bool:
        """Whether they are of several splits."""
        return len({entry.split for entry in self.entries}) > 1

    @property
    def labels_differ(self) -> bool:
        """Whether they have several labels."""
        return len({entry.label for entry in self.entries}) > 1


def find_fault(entry: Entry, finding: Finding, *, min_frames: int, min_contrast: int) -> Fault | None:
    """What is wrong with a file by itself, the worst of it."""
    said = "; ".join(finding.warnings)
    if finding.error is not None:
        kind = TRUNCATED if _CUT.search(finding.error) else UNREADABLE
        return Fault(entry, kind, finding.error)
    if _CUT.search(said):
        return Fault(entry, TRUNCATED, said)
    if _DAMAGE.search(said):
        return Fault(entry, DAMAGED, said)
    if entry.modality == VIDEO and (finding.frames or 0) < min_frames:
        return Fault(entry, SHORT, f"it has {finding.frames} of at least {counted(min_frames, 'frame')}")
    if finding.contrast is not None and finding.contrast < min_contrast:
        what = "every frame that was looked at" if entry.modality == VIDEO else "it"
        return Fault(entry, BLANK, f"{what} is of one colour: its brightness differs by {finding.contrast} of 255")
    return None


def find_duplicates(entries: Sequence[Entry], findings: Sequence[Finding], faulty: set[str]) -> list[Duplicates]:
    """Groups of the same files: those of several splits first, then those of several labels, exact ones before near.

    Files that are `faulty` look like others by their fault, and are compared by their bytes alone.
    """
    exact = exact_duplicates([finding.sha256 for finding in findings])
    copies = {group[0]: group for group in exact}  # the first stands for all
    others = {place for group in exact for place in group[1:]}
    looks = [
        finding.pictures if place not in others and finding.name not in faulty else None
        for place, finding in enumerate(findings)
    ]
    near = [[other for place in group for other in copies.get(place, [place])] for group in near_duplicates(looks)]
    groups = [
        Duplicates(kind, tuple(entries[place] for place in group))
        for kind, found in ((EXACT, exact), (NEAR, near))
        for group in found
    ]
    return sorted(groups, key=lambda group: (not group.across, not group.labels_differ, group.kind != EXACT))


def files_to_skip(faults: Sequence[Fault], duplicates: Sequence[Duplicates]) -> list[tuple[str, str]]:
    """(name, reason) of the files that a data set is better without.

    Those with a fault. Of the same files in training and test those for training, so that the test stays what it is.
    Of the same bytes with one label all but one. Other duplicates are left to people.
    """
    skipped = {fault.entry.name: f"{fault.kind}: {fault.reason}" for fault in faults}
    for group in duplicates:
        whole = [entry for entry in group.entries if entry.name not in skipped]
        tested = [entry for entry in whole if entry.split in TESTS]
        for entry in whole:
            if tested and entry.split not in TESTS:
                skipped[entry.name] = f"{group.kind} duplicate of {tested[0].name}, of the split {tested[0].split}"
        if group.kind == EXACT and not group.labels_differ:
            kept = (tested or whole)[:1]
            for entry in whole:
                if entry not in kept and entry.name not in skipped:
                    skipped[entry.name] = f"exact duplicate of {kept[0].name}"
    return sorted(skipped.items())


def left_to_people(duplicates: Sequence[Duplicates], skipped: Sequence[tuple[str, str]]) -> list[str]:
    """A sentence about each group of duplicates of which more than one file is kept."""
    gone = {name for name, _ in skipped}
    told = []
    for group in duplicates:
        kept = [entry for entry in group.entries if entry.name not in gone]
        if len(kept) > 1:
            labels = ", of different labels" if len({entry.label for entry in kept}) > 1 else ""
            told.append(f"{group.kind} duplicates{labels}, all kept: {', '.join(entry.name for entry in kept)}")
    return told
