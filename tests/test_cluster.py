"""Files through a network on Ray: the same rows, in the same order, as without it.

What becomes of a killed worker was tried by hand (docs/features.md): one more process of Ray takes too long for a test.
"""

import os
import warnings
from pathlib import Path

import pytest
from fakes import GreyNet, grey_image, grey_video

from unidual_zoo.cluster import OnRay
from unidual_zoo.inference import Predictor
from unidual_zoo.scoring import Protocol

TWO = Protocol(name="two", clips=2)


@pytest.mark.skipif("UNIDUAL_RAY" not in os.environ, reason="Ray's processes take half a minute: set UNIDUAL_RAY=1")
def test_ray_gives_the_same_rows(tmp_path, monkeypatch):
    pytest.importorskip("ray.data", reason="Ray is the extra scale")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "torn.mp4").write_text("a text file called .mp4")
    files = [str(tmp_path / "torn.mp4")]
    for level in range(6):
        files.append(str(grey_image(tmp_path / f"{level}.png", level)))
        files.append(str(grey_video(tmp_path / f"{level}.mp4", [level] * 4)))
    files *= 2  # more than one block
    expected = list(Predictor(GreyNet(), protocol=TWO)(files))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        assert list(Predictor(GreyNet(), protocol=TWO, score=OnRay())(files)) == expected


def test_no_actors():
    with pytest.raises(ValueError, match="actors must be 1 or more, got 0"):
        list(OnRay(actors=0)([], {}))
