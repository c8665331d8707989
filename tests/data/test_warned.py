"""Warnings of one thread are taken, those of others and of other kinds are not, and the process's filters stay."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from unidual_zoo.data.media import MediaWarning
from unidual_zoo.data.warned import collected, pillow_quiet


def warn_of(path):
    warnings.warn(MediaWarning(path, "a reason"), stacklevel=1)


@pytest.fixture
def shown():
    """The warnings that are shown."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        yield shown


def test_warnings_of_files_are_collected_and_others_pass(shown):
    with collected() as found:
        warn_of("a")
        warn_of("a")  # not only once
        warnings.warn("other", RuntimeWarning, stacklevel=1)
    warn_of("b")  # after the block as before
    assert [(warning.path, warning.reason) for warning in found] == [("a", "a reason")] * 2
    assert [str(warning.message) for warning in shown] == ["other", "b: a reason"]


def test_filters_count_for_other_warnings():
    with warnings.catch_warnings(), collected():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            warnings.warn("other", RuntimeWarning, stacklevel=1)


def test_only_pillows_warnings_are_hushed(shown):
    image, large = Image.new("1", (1, 1)), (0, 0, 10000, 10000)
    image.crop(large)
    with pillow_quiet():
        image.crop(large)
        warnings.warn("mine", stacklevel=1)
        warn_of("a")
    assert [warning.category for warning in shown] == [Image.DecompressionBombWarning, UserWarning, MediaWarning]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pillow_quiet():
            image.crop(large)


def test_blocks_within_each_other():
    with collected() as outer:
        with collected() as inner, pillow_quiet():
            warn_of("inner")
        warn_of("outer")
    assert ([w.path for w in inner], [w.path for w in outer]) == (["inner"], ["outer"])


def test_threads_have_their_own_and_leave_the_filters_as_they_were():
    before = warnings.filters[:], warnings.showwarning
    together = threading.Barrier(8)

    def read(number):
        together.wait()
        found = []
        for turn in range(50):
            with pillow_quiet(), collected() as mine:
                warn_of(f"{number}.{turn}")
            found += [warning.path for warning in mine]
        return found

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(read, range(8)))
    assert results == [[f"{number}.{turn}" for turn in range(50)] for number in range(8)]
    assert (warnings.filters, warnings.showwarning) == before
