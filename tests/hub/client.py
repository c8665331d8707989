"""A process that talks to the Hub: jobs on standard input, a line of JSON each, a line of what came of each on output.

A job is {"environment": {...}, "cases": {name: {"do": ..., "name": ..., "token": ...}}}. The Hub's client takes its
settings from the environment when it is imported, so each job is done by a fork of this process, which has imported no
more than torch by then. Of a job's cases those without a token run first, side by side, then the others in order. Out
comes {name: {"answer": ...} or {"error": type, "message": text}}.
"""

import json
import os
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import torch
import torchvision  # noqa: F401  (the other half of the time that imports take)


def answer(model: torch.nn.Module) -> list[float]:
    """What a model says of a grey image and a grey clip."""
    image, clip = torch.full((1, 3, 32, 32), 0.5), torch.full((1, 3, 4, 32, 32), 0.5)
    with torch.no_grad():
        return [float(value) for x in (image, clip) for value in model.eval()(x)[0]]


def act(do: str, name: str, **case: str):
    import timm

    from unidual_zoo.models.create import create_model

    if do == "create":
        return answer(create_model(f"hf-hub:{name}", pretrained=True))
    if do == "create, warned":
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            return [answer(create_model(f"hf-hub:{name}", pretrained=True)), *(str(w.message) for w in caught)]
    if do == "timm":
        return answer(timm.create_model(f"hf-hub:{name}", pretrained=True))
    if do == "verify":
        from verify import verify

        return verify(f"hf-hub:{name}")
    from publish import publish

    return str(publish(Path(case["folder"]), repo=name, license="apache-2.0"))


def attempt(case: dict[str, str]) -> dict:
    os.environ["HF_TOKEN"] = case.pop("token", "")
    try:
        return {"answer": act(**case)}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


def do_job(cases: dict[str, dict[str, str]]) -> dict:
    side_by_side = {name: case for name, case in cases.items() if "token" not in case}
    with ThreadPoolExecutor(len(side_by_side)) as pool:
        results = dict(zip(side_by_side, pool.map(attempt, side_by_side.values()), strict=True))
    return results | {name: attempt(case) for name, case in cases.items() if "token" in case}


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "hub"))
    for line in sys.stdin:
        job = json.loads(line)
        if child := os.fork():
            os.waitpid(child, 0)
            continue
        os.environ.update(job["environment"])
        time.sleep = lambda seconds: sleep(min(seconds, 0.05))  # between attempts, which are made all the same
        warnings.simplefilter("error", UserWarning)  # ours; the client itself uses deprecated things
        print(json.dumps(do_job(job["cases"])), flush=True)
        os._exit(0)


if __name__ == "__main__":
    main()
