"""malloc keeps what is freed where it is glibc's and nobody has chosen otherwise."""

import platform

import pytest

from unidual_zoo import memory


@pytest.mark.parametrize(
    ("system", "libc", "environment", "applies"),
    [
        ("Linux", "glibc", {}, True),
        ("Linux", "glibc", {"UNIDUAL_MALLOC": "keep"}, True),
        ("Linux", "glibc", {"UNIDUAL_MALLOC": "system"}, False),
        ("Linux", "glibc", {"MALLOC_TRIM_THRESHOLD_": "1"}, False),
        ("Linux", "", {}, False),  # musl
        ("Darwin", "", {}, False),
        ("Windows", "", {}, False),
    ],
)
def test_where_malloc_is_changed(system, libc, environment, applies):
    assert memory._applies(system, libc, environment) == applies


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc here")
def test_glibc_takes_both_settings(monkeypatch):
    for name in (memory.VARIABLE, *memory.GLIBC_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    memory.keep_freed_memory.cache_clear()
    assert memory.keep_freed_memory()
