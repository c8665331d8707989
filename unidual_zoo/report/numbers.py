"""What a report counts: classes, confusions, calibration, and the files worth a look. Pure functions of a `Report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from unidual_zoo.evaluation import MAIN, FileResult, Report, main_score, standard_error
from unidual_zoo.names import counted

ALWAYS = "always"  # how baselines are called that give one answer
BINS = 10
SLOW, SLOW_SECONDS = 3.0, 0.5  # a file is slow that takes so many times the median, and so long at least


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """A class's files, how many were taken for it, and how many of them rightly."""

    name: str
    files: int
    predicted: int
    right: int

    @property
    def precision(self) -> float | None:
        """The share of what was taken for the class that is of it; None if nothing was."""
        return self.right / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """The share of the class's files that were found; None without files."""
        return self.right / self.files if self.files else None


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The files whose confidence is above `low` and up to `high`: how many, their mean confidence and accuracy."""

    low: float
    high: float
    files: int
    confidence: float
    accuracy: float


def class_rows(report: Report) -> list[ClassRow]:
    """A row for every class that has files or was predicted, in the order of the classes."""
    labels = Counter(result.label for result in report.results)
    predicted = Counter(result.top[0] for result in report.results if result.top)
    right = Counter(result.label for result in report.results if is_right(result))
    return [
        ClassRow(
            name=class_name(report, number), files=labels[number], predicted=predicted[number], right=right[number]
        )
        for number in sorted({*labels, *predicted})
    ]


def confusions(report: Report) -> Counter[tuple[int, int]]:
    """How many files of class a (first) were taken for class b (second), for every pair that occurs."""
    return Counter((result.label, result.top[0]) for result in report.results if result.top)


def calibration(report: Report, *, bins: int = BINS) -> tuple[float | None, list[Bin]]:
    """The expected calibration error (Guo et al. 2017, equation 3), and its bins of equal width that have files.

    Files that failed have no confidence and are left out; without any other the error is None.
    """
    scored = [result for result in report.results if result.confidences]
    members: dict[int, list[FileResult]] = {}
    for result in scored:
        number = next(i for i in range(bins) if result.confidences[0] <= (i + 1) / bins or i == bins - 1)
        members.setdefault(number, []).append(result)
    rows = [
        Bin(
            low=number / bins,
            high=(number + 1) / bins,
            files=len(inside),
            confidence=sum(result.confidences[0] for result in inside) / len(inside),
            accuracy=sum(map(is_right, inside)) / len(inside),
        )
        for number, inside in sorted(members.items())
    ]
    if not scored:
        return None, []
    return sum(row.files * abs(row.accuracy - row.confidence) for row in rows) / len(scored), rows


def confident_mistakes(report: Report, count: int) -> list[FileResult]:
    """The wrong answers with the highest confidence."""
    wrong = [result for result in report.results if result.confidences and not is_right(result)]
    return sorted(wrong, key=lambda result: -result.confidences[0])[:count]


def doubtful_hits(report: Report, count: int) -> list[FileResult]:
    """The right answers with the lowest confidence."""
    right = [result for result in report.results if result.confidences and is_right(result)]
    return sorted(right, key=lambda result: result.confidences[0])[:count]


def slow_files(report: Report, count: int) -> tuple[float, list[FileResult]]:
    """The median seconds that reading a file took, and the slowest of those that took far longer."""
    if not report.results:
        return 0.0, []
    usual = median(result.seconds for result in report.results)
    slow = [result for result in report.results if result.seconds >= max(SLOW * usual, SLOW_SECONDS)]
    return usual, sorted(slow, key=lambda result: -result.seconds)[:count]


def majority_baseline(labels: Sequence[int], report: Report) -> dict[str, float]:
    """The accuracy in % of always giving the most frequent of the labels (the lowest of equals), by what it is called:
    its share of the report's files."""
    counts = Counter(labels)
    answer = min(counts, key=lambda number: (-counts[number], number))
    share = sum(result.label == answer for result in report.results) / len(report.results)
    return {f"{ALWAYS} {class_name(report, answer)!r}": round(100 * share, 3)}


def guessing_line(report: Report, baselines: Mapping[str, float]) -> str | None:
    """That a result is no better than always giving one answer, as far as its files can tell; None if it is better.

    It is if more than two standard errors lie between the two, by the larger of theirs.
    """
    score, files = main_score(report), len(report.files)
    for name, share in baselines.items():
        error = max(standard_error(score, files), standard_error(share, files))
        if name.startswith(ALWAYS) and score - share <= 2 * error:
            told = f"{MAIN[report.modality]} {score:.1f}% is no better than {name} ({share:.1f}%)"
            if score <= share:
                return told
            return (
                f"{told}, as far as {counted(files, 'file')} can tell: two standard errors are {2 * error:.1f} points"
            )
    return None


def is_right(result: FileResult) -> bool:
    """Whether the best class is the file's."""
    return result.label in result.top[:1]


def class_name(report: Report, number: int) -> str:
    """The name of a class of the network, its number where the report knows no names."""
    return report.classes[number] if report.classes else str(number)
