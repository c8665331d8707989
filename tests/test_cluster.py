"""Files through a network on Ray: the same rows as without it, although a worker dies."""

import os
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes import GreyNet, grey_image, grey_video

from unidual_zoo.cluster import OnRay
from unidual_zoo.inference import Predictor
from unidual_zoo.scoring import Protocol, ViewReader

TWO = Protocol(name="two", clips=2)


@dataclass(frozen=True)
class KillingReader(ViewReader):
    """A reader whose process is killed at one file, once: `mark` notes that it was."""

    victim: str = ""
    mark: str = ""

    def __call__(self, path: str):
        if path == self.victim and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(path)


def test_ray_gives_the_same_rows_although_a_worker_is_killed(tmp_path, monkeypatch):
    pytest.importorskip("ray.data", reason="Ray is the extra scale")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "torn.mp4").write_text("a text file called .mp4")
    files = [str(tmp_path / "torn.mp4")]
    for level in range(6):
        files.append(str(grey_image(tmp_path / f"{level}.png", level)))
        files.append(str(grey_video(tmp_path / f"{level}.mp4", [level] * 4)))
    files *= 2  # more than one block
    expected = list(Predictor(GreyNet(), protocol=TWO)(files))
    predictor = Predictor(GreyNet(), protocol=TWO, score=OnRay())
    route = predictor.routes["image"]
    reader = KillingReader("image", route.spec, TWO, victim=files[5], mark=str(tmp_path / "killed"))
    predictor.routes["image"] = route.reading(reader)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, of Python's subprocesses and of its future
        assert list(predictor(files)) == expected
    assert (tmp_path / "killed").exists()
    with pytest.raises(ValueError, match="actors must be 1 or more, got 0"):
        list(OnRay(actors=0)([], {}))
