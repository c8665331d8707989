"""Packages of the extras are named where they lack."""

import json

import pytest

from unidual_zoo.extras import require


def test_a_package_that_lacks_names_its_extra():
    assert require("json", "scale") is json
    with pytest.raises(RuntimeError, match=r"^this needs no_such\.part, which .*: pip install 'unidual-zoo\[scale\]'$"):
        require("no_such.part", "scale")
