"""What the service has done, in Prometheus's text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST_FAILURE = 400  # HTTP's first status of a failed request


class Metrics:
    """Counts answered requests by their status, and their seconds."""

    def __init__(self) -> None:
        self._requests: Counter[int] = Counter()
        self._seconds = 0.0

    def count(self, status: int, seconds: float) -> None:
        self._requests[status] += 1
        self._seconds += seconds

    def text(self, gauges: Mapping[str, tuple[str, int]], counters: Mapping[str, tuple[str, int]]) -> str:
        """Everything counted, and what is given besides: name -> (what it is, value)."""
        failures = sum(count for status, count in self._requests.items() if status >= FIRST_FAILURE)
        by_status = [(f'{{status="{status}"}}', count) for status, count in sorted(self._requests.items())]
        seconds = [("_sum", round(self._seconds, 6)), ("_count", self._requests.total())]
        families = [
            ("requests_total", "counter", "Requests answered, by status.", by_status),
            ("failures_total", "counter", "Requests answered with an error.", [("", failures)]),
            ("request_seconds", "summary", "Seconds from a request's first byte to its answer.", seconds),
            *((name, "gauge", about, [("", value)]) for name, (about, value) in gauges.items()),
            *((name, "counter", about, [("", value)]) for name, (about, value) in counters.items()),
        ]
        return "".join(_family(f"unidual_{name}", *rest) for name, *rest in families)


def _family(name: str, kind: str, about: str, samples: list[tuple[str, float]]) -> str:
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    return "\n".join([*lines, *(f"{name}{label} {value}" for label, value in samples)]) + "\n"
