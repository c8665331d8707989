"""Loading from and publishing on a Hub, by the unmodified client, over HTTP: what works, and every way it can fail.

The Hub is `server.py` on loopback. The client takes its address from the environment when it is imported, so it runs in
processes of its own (`client.py`), one for all cases that can share one.
"""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub.client import answer
from hub.server import Hub, Repo, commit_of
from models.small import TASKS, small
from safetensors.torch import save
from timm.models._hub import save_for_hf

TINY = dict(tasks=TASKS, num_frames=4)
CLIENT = Path(__file__).parent / "client.py"
TOKEN = "right"

CASES = {
    # what works
    "good": dict(do="timm", name="org/good"),
    "moved": dict(do="create", name="org/moved"),
    "at its commit": dict(do="create", name=f"org/good@{commit_of('org/good')}"),
    "resumed": dict(do="timm", name="org/flaky"),
    # what fails before the weights
    "no repository": dict(do="create", name="nobody/nothing"),
    "no token": dict(do="create", name="org/secret"),
    "gated": dict(do="create", name="org/gated"),
    "no revision": dict(do="create", name="org/good@v9"),
    "no config": dict(do="create", name="org/noconfig"),
    "no json": dict(do="create", name="org/nojson"),
    "unregistered": dict(do="create", name="org/strange"),
    "newer": dict(do="timm", name="org/newer"),
    "vast": dict(do="timm", name="org/vast"),
    "curious": dict(do="create", name="org/curious"),
    "down": dict(do="create", name="org/down"),
    "no hub": dict(do="create", name="org/web"),
    "no name": dict(do="create", name="org//name"),
    # what fails with the weights, by timm's own function too
    "pickle": dict(do="timm", name="org/pickle"),
    "breaks": dict(do="timm", name="org/breaks"),
    "fails": dict(do="timm", name="org/fails"),
    "page": dict(do="timm", name="org/page"),
    "misfit": dict(do="timm", name="org/misfit"),
    "wrong": dict(do="timm", name="org/wrong"),
    # with a token, one after the other
    "borrowed": dict(do="create, warned", name="org/borrowed", token=TOKEN),
    "wrong token": dict(do="create", name="org/secret", token="wrong"),
    "right token": dict(do="create", name="org/secret", token=TOKEN),
    "wrong, again": dict(do="timm", name="org/wrong", token=TOKEN),
    "good, again": dict(do="timm", name="org/good", token=TOKEN),
    "published": dict(do="publish", name="org/new", token=TOKEN),
    "published, loaded": dict(do="timm", name="org/new", token=TOKEN),
    "published, verified": dict(do="verify", name="org/new", token=TOKEN),
    "verified": dict(do="verify", name="org/good", token=TOKEN),
}


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def files_of(model: torch.nn.Module, folder: Path) -> dict[str, bytes]:
    save_for_hf(model, str(folder), safe_serialization=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed(files: dict[str, bytes], **parts: dict) -> dict[str, bytes]:
    """The files with other fields in parts of config.json."""
    config = json.loads(files["config.json"])
    config |= {part: config[part] | fields for part, fields in parts.items()}
    return files | {"config.json": json.dumps(config).encode()}


class Client:
    """`client.py`, running: `client.do(cases, **environment)`."""

    def __init__(self, home: Path, hub: Hub) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {
            "HF_HOME": str(home),
            "HF_ENDPOINT": hub.url(),
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen([sys.executable, str(CLIENT)], cwd=home, env=environment, **pipes)

    def __enter__(self):
        self.process.__enter__()
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.__exit__(*error)

    def do(self, cases: dict, **environment: str) -> dict:
        self.process.stdin.write(json.dumps({"environment": environment, "cases": cases}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The Hub, the client's cache, and what came of every case: online, with the server gone, and switched offline."""
    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("home")
    model, large = small("unidual10_aux", **TINY), small("unidual10", **TINY, width=0.5)
    good, flaky = files_of(model, home / "good"), files_of(large, home / "flaky")
    weights, config = "model.safetensors", good["config.json"]
    assert len(flaky[weights]) * 3 // 4 > 10 << 20, "the client asks for the rest of a file from 10 MiB on"
    misfit = save({key: value for key, value in model.state_dict().items() if not key.startswith("stem.norm")})
    repos = {
        "good": Repo(good),
        "moved": Repo({}, moved_to="org/good"),
        "flaky": Repo(flaky, fault="breaks once"),
        "secret": Repo(good, token=TOKEN),
        "gated": Repo(good, gated=True),
        "noconfig": Repo({weights: good[weights]}),
        "nojson": Repo(good | {"config.json": b"<html>"}),
        "strange": Repo(good | {"config.json": config.replace(b"unidual10_aux", b"unidual99")}),
        "newer": Repo(changed(good, model_args={"segments": 8})),
        "vast": Repo(changed(good, model_args={"depths": [10**6]})),
        "curious": Repo(changed(good, model_args={"spec": {"classes": {"k400": "../classes/cifar10"}}})),
        "borrowed": Repo(changed(good, pretrained_cfg={"file": str(home / "flaky" / weights)})),
        "down": Repo(good, status=500),
        "web": Repo(good, plain_web_server=True),
        "pickle": Repo({"config.json": config, "pytorch_model.bin": pickle.dumps(Evil())}),
        "breaks": Repo(good, fault="breaks"),
        "fails": Repo(good, fault="fails"),
        "page": Repo(good | {weights: b"<html>not found</html>"}),
        "misfit": Repo(good | {weights: misfit}),
        "wrong": Repo(good, fault="wrong once"),
    }
    run = home / "run"
    save_for_hf(model, str(run / "export"), safe_serialization=True)
    cases = {name: case | ({"folder": str(run)} if case["do"] == "publish" else {}) for name, case in CASES.items()}
    again = {"cached": dict(do="timm", name="org/good"), "not cached": dict(do="create", name="org/never")}
    with Hub({f"org/{name}": repo for name, repo in repos.items()}) as hub, Client(home, hub) as client:
        found = client.do(cases)
        hub.close()
        gone = client.do(again)
        offline = client.do(again, HF_HUB_OFFLINE="1")
    found |= {f"gone, {name}": result for name, result in gone.items()}
    found |= {f"offline, {name}": result for name, result in offline.items()}
    return found | {"expected": {"model": answer(model), "large": answer(large)}, "home": home, "hub": hub}


WORKS = ["good", "moved", "at its commit", "right token", "wrong, again", "good, again", "published, loaded"]


@pytest.mark.parametrize("case", [*WORKS, "gone, cached", "offline, cached", "resumed"])
def test_loads_and_answers_as_the_network_that_was_saved(answers, case):
    assert answers[case].get("answer") == pytest.approx(
        answers["expected"]["large" if case == "resumed" else "model"], abs=1e-3
    ), answers[case]


PRIVATE = "there is no such repository, or it is private and needs a token of a reader (`hf auth login` or HF_TOKEN)"
ERRORS = {  # each begins with "cannot get FILE of REPOSITORY from ADDRESS: " unless it has come that far
    "no repository": ("config.json of nobody/nothing", PRIVATE),
    "no token": ("config.json of org/secret", PRIVATE),
    "wrong token": ("config.json of org/secret", PRIVATE),
    "gated": ("config.json of org/gated", "access is restricted: accept its terms on the Hub and log in"),
    "no revision": ("config.json of org/good@v9", "there is no such revision"),
    "no config": ("config.json of org/noconfig", "there is no such file in it"),
    "down": ("config.json of org/down", "the server answers 500, and no copy is in the cache"),
    "no hub": ("config.json of org/web", "Response from {hub}/org/web/resolve/main/config.json is missing the"),
    "no name": ("config.json of org//name", "Repo id must"),
    "pickle": (
        "model.safetensors of org/pickle",
        "there is no such file in it",
    ),
    "breaks": ("model.safetensors of org/breaks", "peer closed connection"),
    "fails": ("model.safetensors of org/fails", "the server answers 500"),
    "gone, not cached": ("config.json of org/never", "[Errno 111] Connection refused, and no copy is in the cache"),
    "offline, not cached": ("config.json of org/never", "the network is switched off (HF_HUB_OFFLINE), and no copy"),
    "no json": "hf-hub:org/nojson has no config.json that names an architecture: JSONDecodeError",
    "unregistered": "hf-hub:org/strange is a 'unidual99', which nothing imported here has registered",
    "newer": "config.json of org/newer does not fit this version of unidual_zoo: unknown fields model_args.segments",
    "vast": "config.json of org/vast describes no network that can be built: it would have over ",
    "curious": "config.json of org/curious describes no network that can be built: no list of class names '../classes/",
    "page": "model.safetensors of org/page, {home}/hub/models--org--page/",
    "misfit": "model.safetensors of org/misfit, {home}/hub/models--org--misfit/",
    "wrong": "model.safetensors of org/wrong from {hub} is not the file that was announced (sha256 ",
}


@pytest.mark.parametrize("case", ERRORS)
def test_failure_is_one_sentence_with_repository_file_and_cause(answers, case):
    result, expected = answers[case], ERRORS[case]
    if isinstance(expected, tuple):
        expected = f"cannot get {expected[0]} from {{hub}}: {expected[1]}"
    assert result.get("error") == "CheckpointError", result
    assert result["message"].startswith(expected.format(hub=answers["hub"].url(), home=answers["home"]))
    assert "\n" not in result["message"]


def test_a_configuration_does_not_lead_to_other_weights(answers):
    values, *warned = answers["borrowed"]["answer"]
    assert values == pytest.approx(answers["expected"]["model"], abs=1e-3)
    assert warned == ["config.json of org/borrowed names other weights (file), which are not read"]


def test_details_of_files_that_are_no_weights_or_do_not_fit(answers):
    assert "is a web page, as servers give in the place of a file" in answers["page"]["message"]
    assert "does not fit UniDual: missing: stem.norm.image.weight" in answers["misfit"]["message"]


def test_every_case_is_expected_to_work_or_to_fail():
    others = {"resumed", "borrowed", "published", "published, verified", "verified"}
    assert set(CASES) == {case for case in {*WORKS, *ERRORS} if "cached" not in case} | others


def test_nothing_half_downloaded_stays(answers):
    cache = answers["home"] / "hub"
    for name in ("breaks", "fails"):
        assert [path.name for path in (cache / f"models--org--{name}").glob("snapshots/*/*")] == ["config.json"]
    assert list(cache.rglob("*.incomplete")) == []
    assert not (answers["home"] / "ran").exists()


def test_a_broken_download_goes_on_where_it_broke_off(answers):
    ranges = [request[3] for request in answers["hub"].requests_for("org/flaky/model") if request[0] == "cdn"]
    assert ranges == [None, f"bytes={10 << 20}-"]


def test_a_cached_file_is_not_fetched_again(answers):
    fetched = [request for request in answers["hub"].requests_for("org/good/model") if request[0] == "cdn"]
    assert len(fetched) == 1 + 1  # org/moved leads there, too


def test_a_token_goes_to_the_hub_and_nowhere_else(answers):
    requests = answers["hub"].requests_for("org/secret")
    assert {request[4] for request in requests if request[0] == "hub"} == {None, "wrong", TOKEN}
    assert {request[4] for request in requests if request[0] == "cdn"} == {None}


def test_published_repository_holds_its_files_and_is_in_order(answers):
    assert answers["published"].get("answer"), answers["published"]
    files = answers["hub"].repos["org/new"].files
    assert sorted(files) == ["README.md", "config.json", "golden.safetensors", "model.safetensors"]
    assert answers["published, verified"] == {"answer": []}
    assert "cannot get golden.safetensors of org/good" in answers["verified"]["message"]
