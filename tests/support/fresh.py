"""Processes against the hub on loopback: HF_ENDPOINT is read at the first import."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import forked
import worlds
from hub import Hub

from tsv_exp.tasks.task import Task

STEPS = """
import json, sys, time
from pathlib import Path
import torch
sys.path[:0] = {path!r}
slept = time.sleep
time.sleep = lambda seconds: slept(min(seconds, 0.05))  # libraries wait seconds before they ask a hub again
import worlds
from tsv_exp.models.clip.model import ClipModel
from tsv_exp.errors import UserError
from tsv_exp.merging.task_vectors import TaskVectors

def model(**changes):
    settings = dict(name="toy", architecture=worlds.ARCHITECTURE, pretrained="openai/tiny", checkpoints="zoo/clip_*")
    return ClipModel(**settings | changes)

def line(action):
    try:
        action()
    except UserError as error:
        return str(error)

def run(*overrides):
    from tsv_exp.commands.exp import main
    sys.argv[1:] = overrides
    return main()

told = {{}}
{body}
print(json.dumps(told))
"""


def started(hub: Hub, home: Path, body: str, **environment: str) -> forked.Program:
    """A process with caches in `home`, which a test may kill."""
    script = STEPS.format(path=[str(Path(__file__).parent)], body=body)
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "TSV_EXP_CACHE": str(home / "cache")}
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "2"}
    hub.requests.clear()
    return forked.Program(script, cwd=Path.cwd(), env={**os.environ, **settings, **environment})


def told(hub: Hub, home: Path, body: str, **environment: str) -> dict[str, object]:
    """What a process with caches in `home` found out."""
    done = started(hub, home, body, **environment).result()
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "stderr": done.stderr}


def downloads(hub: Hub, ending: str) -> list[str]:
    """The files of that ending that were fetched since the last process began."""
    return [request for request in hub.requests if request.startswith("GET") and request.endswith(ending)]


def command(home: Path, *overrides: str) -> list[str]:
    """tsv-exp on the toy CLIP of `worlds`, with runs in `home`."""
    plain = json.dumps(worlds.ARCHITECTURE).replace('"', "")
    model = [f"model.architecture={plain}", "model.pretrained=openai/tiny", "model.checkpoints=zoo/clip_*"]
    return ["model=vit_b_32", *model, f"paths.outputs={home}/outputs", "evaluate.precision=float32", *overrides]


@contextmanager
def served(root: Path, with_models: list[Task], with_data: list[Task], **images: int) -> Iterator[Hub]:
    """A hub on loopback with the models of some tasks and the data sets of some."""
    worlds.models(root, with_models)
    worlds.data(root, with_data, **images)
    with Hub(root).running() as server:
        yield server
