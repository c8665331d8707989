"""The page to try a model in: what it answers, what it refuses, and itself in a browser."""

import contextlib
import copy
import dataclasses
import gc
import shutil
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import timm
import torch
from fakes import grey_image, grey_video

import unidual_zoo  # noqa: F401  (registers the models)
from unidual_zoo import extras
from unidual_zoo.data.media import MediaError
from unidual_zoo.demo import LOOPBACK, Limits, Looker, check_file, served, told
from unidual_zoo.ports import listen

MARKUP = "<img src=x onerror=document.title='taken'>"
TASKS = {"things": ("image", 3), "acts": ("video", 3)}
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # a pie that turns, and no question
CHROME, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = timm.create_model("unidual10", tasks=TASKS, width=1 / 16, num_frames=4).eval()
    classes = {task: tuple(f"{MARKUP} {number}" for number in range(3)) for task in TASKS}
    model.spec = dataclasses.replace(model.spec, resize=36, crop=(32, 32), classes=classes)
    return model


@pytest.fixture
def film(tmp_path):
    """A video of three seconds."""
    return str(grey_video(tmp_path / f"{MARKUP.replace('/', '')}.mp4", [0, 2, 4] * 25))


def test_both_pathways_answer_for_a_photo_and_over_the_time_of_a_video(model, film, tmp_path):
    look = Looker(model)
    model.train()
    for path, modality, seconds in (
        (str(grey_image(tmp_path / "a.png", 2)), "image", []),
        (film, "video", [0, 0.74, 1.24, 1.74, 2.24, 3]),  # in the middle between the centres of windows of a second
    ):
        sight = look(path)
        assert (sight.modality, sight.tasks) == (modality, {"image": "things", "video": "acts"})
        moments = sight.timeline.moments if sight.timeline else []
        edges = {round(edge, 3) for moment in moments for edge in (moment.start, moment.end)}
        assert sorted(edges) == pytest.approx(seconds)
        for pathway, top in sight.top.items():
            assert sum(top.values()) == pytest.approx(1)  # all of three classes
            assert all(moment.best[pathway][0][0] in top for moment in moments)
        assert len(sight.pictures) == (6 if moments else 2)
        assert all(picture.size == (32, 32) for picture, _ in sight.pictures)
    assert "image, 0.5 s: <img" in sight.pictures[0][1]
    assert "5 clips over the whole video" in told(sight, "net", "cpu")
    assert model.training
    model.eval()


def test_scores_that_are_not_finite_are_no_labels(model, tmp_path):
    broken = copy.deepcopy(model)
    for parameter in broken.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(MediaError, match="scores are not finite"):
        Looker(broken)(str(grey_image(tmp_path / "a.png", 2)))


def test_what_is_too_large_too_long_or_no_video_is_refused(film, tmp_path):
    assert check_file(film, Limits()) == "video"
    with pytest.raises(ValueError, match=r"the file has 0\.0 MB, allowed are 0\.0001 MB"):
        check_file(film, Limits(megabytes=1e-4))
    with pytest.raises(ValueError, match="the video has 3 s, allowed are 2 s"):
        check_file(film, Limits(seconds=2))
    (tmp_path / "text.mp4").write_text("this is text")
    with pytest.raises(MediaError, match="cannot be opened as a video"):
        check_file(str(tmp_path / "text.mp4"), Limits())


def test_the_end_waits_for_the_file_in_hand(model, tmp_path):
    path, look = str(grey_image(tmp_path / "a.png", 2)), Looker(model)
    plain, begun, told = look._look, threading.Event(), threading.Event()

    def slow(*given):
        begun.set()
        told.wait(10)
        return plain(*given)

    look._look = slow
    with ThreadPoolExecutor(2) as pool:
        sight = pool.submit(look, path)
        assert begun.wait(10)
        ended = pool.submit(look.close)
        with pytest.raises(TimeoutError):
            ended.result(0.2)
        told.set()
        ended.result(10)
        assert sight.result(10).top
    with pytest.raises(ValueError, match="the page is being closed"):
        look(path)


def test_a_model_without_heads_has_nothing_to_show():
    with pytest.raises(ValueError, match="the model has no heads"):
        Looker(timm.create_model("unidual10", tasks=TASKS, width=1 / 16, num_classes=0))


def test_a_missing_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(RuntimeError, match=r"gradio.*pip install 'unidual-zoo\[demo\]'"):
        extras.require("gradio", "demo")


def test_a_port_in_use_is_one_sentence(model):
    with listen(LOOPBACK, 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"^port {port} of 127.0.0.1 is in use: choose"), served(model, port=port):
            pass


@contextlib.contextmanager
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROME
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000", *CAMERA):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


COUNTED = """
window.recorded = 0;
const Plain = window.MediaRecorder;
window.MediaRecorder = class extends Plain {
    constructor(...given) {
        super(...given);
        this.addEventListener("dataavailable", (event) => { window.recorded += event.data.size; });
    }
};
"""


class Visitor:
    """A window of a browser that looks at the page."""

    def __init__(self, driver, address):
        driver.switch_to.new_window("tab")
        self.driver, self.tab = driver, driver.current_window_handle
        driver.get(address)

    def until(self, found):
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver.switch_to.window(self.tab)
        # The page draws parts of itself anew while they are looked at.
        wait = WebDriverWait(self.driver, 60, 0.1, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(lambda driver: found())

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def drop(self, path):
        self.until(lambda: self.all("#dropped input[type=file]"))[0].send_keys(str(path))

    def record(self, *, enough):
        """Takes a video by webcam of `enough` bytes; of its last fifth of a second nothing comes."""
        self.until(lambda: self.all("#dropped input[type=file]"))
        self.driver.execute_script(COUNTED)
        self.press("button[role=tab]", "Video by webcam")
        for name in ("Click to Access Webcam", "Record"):
            self.press("#recorder button", name)
        self.until(lambda: self.driver.execute_script("return window.recorded") >= enough)
        self.press("#recorder button", "Stop")

    def press(self, selector, name):
        """Presses a button by its name, also where the page's own wheel turns in front of it."""

        def pressed():
            (button,) = [button for button in self.all(selector) if button.text.strip() == name] or [None]
            if button is not None:
                self.driver.execute_script("arguments[0].click()", button)
            return button

        self.until(pressed)

    def facts(self):
        return self.until(lambda: self.all("#facts textarea")[0].get_attribute("value"))

    def complaint(self):
        return self.until(lambda: " ".join(toast.text for toast in self.all("[data-testid=toast-body]")).strip())


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")  # gradio's are not ours
def test_the_page_in_a_browser(model, film, tmp_path):
    pytest.importorskip("gradio")
    pytest.importorskip("selenium")
    if not (CHROME and DRIVER):
        pytest.skip("no chromium or no chromedriver here")
    photo = grey_image(tmp_path / "photo.jpg", 2)
    (tmp_path / "text.mp4").write_text("this is text")
    (tmp_path / "large.jpg").write_bytes(bytes(1_100_000))
    options = dict(name="local-dir:mine", limits=Limits(megabytes=1), port=None, examples=False)
    with served(model, **options) as page, browser() as driver:
        assert page.server_name == LOOPBACK
        (folder,) = Path(tempfile.gettempdir()).glob("unidual-demo-*")
        first, second = (Visitor(driver, page.local_url) for _ in range(2))
        first.drop(film)
        second.drop(photo)
        assert "5 clips over the whole video" in first.facts()
        assert second.facts().startswith("local-dir:mine on cpu: one photo")
        for visitor, pictures in ((first, 6), (second, 2)):
            visitor.until(lambda visitor=visitor: MARKUP in visitor.all("#video-labels")[0].text)
            visitor.until(lambda visitor=visitor, n=pictures: len(visitor.all("#frames img")) >= n)
            assert not visitor.all("img[src=x]")
            assert driver.title == "UniDual"
        first.until(lambda: first.all("#timeline img"))
        assert not list(folder.rglob("*.mp4"))  # it has been answered
        for name, complaint in (("text.mp4", "cannot be opened as a video"), ("large.jpg", "maximum allowed size")):
            visitor = Visitor(driver, page.local_url)
            visitor.drop(tmp_path / name)
            assert complaint in visitor.complaint()
        visitor = Visitor(driver, page.local_url)
        visitor.record(enough=20_000)
        assert "over the whole video" in visitor.facts()
        visitor.until(lambda: visitor.all("#timeline img"))
        assert not list(folder.rglob("*.webm"))
        small = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", small)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        driver.switch_to.window(second.tab)
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", small)
        box, frames = (second.all(selector)[0].size["height"] for selector in ("#frames", "#frames .grid-container"))
        assert box < frames + 40  # nothing below the frames
    assert not folder.exists()
    gc.collect()  # the loops and sockets that gradio and uvicorn leave open, while their warnings are ignored
