"""Routers on disk: the same afterwards, and refused where they are damaged."""

import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tsv_exp.config import conf_dir
from tsv_exp.errors import UserError
from tsv_exp.routing.likelihood import Likelihood
from tsv_exp.routing.mass import Mass
from tsv_exp.routing.router import FittedRouter
from tsv_exp.routing.serving.files import ROUTERS, parameters_of, read_router, router_of, write_router


def fitted() -> FittedRouter:
    parts = {
        "factors": torch.randn(2, 3, 4),
        "logdet": torch.tensor([1.0, torch.nan]),
        "epsilon": torch.tensor(0.3),
    }
    return FittedRouter(Likelihood(epsilon=0.3, layers=["*mlp*"]), ("a", "b/c"), {"x.weight": parts, "y/z": parts})


def test_round_trip(tmp_path: Path) -> None:
    write_router(tmp_path, fitted())
    found = read_router(tmp_path)
    assert (found.tasks, list(found.layers)) == (("a", "b/c"), ["x.weight", "y/z"])
    assert parameters_of(found.router) == {
        "epsilon": 0.3,
        "rank_fraction": 0.25,
        "standardize": False,
        "narrowing": False,
        "layers": ["*mlp*"],
    }
    write_router(tmp_path, found)
    again = read_router(tmp_path)
    for name, parts in found.layers.items():
        for key, tensor in parts.items():
            torch.testing.assert_close(again.layers[name][key], tensor, rtol=0, atol=0, equal_nan=True)
    assert parameters_of(Mass(layer="w")) == {"layer": "w", "rank_fraction": None, "token": "first"}
    assert router_of("mass", parameters_of(Mass(layer="w"))) == Mass(layer="w")


@pytest.mark.parametrize("name", sorted(ROUTERS))
def test_defaults_are_those_of_the_configuration(name: str) -> None:
    given = OmegaConf.to_container(OmegaConf.load(conf_dir() / "router" / f"{name}.yaml"))
    assert isinstance(given, dict)
    place = given.pop("_target_")
    assert resolve_name(place) is ROUTERS[name]
    assert given == parameters_of(ROUTERS[name]())


def change(folder: Path, **values: Any) -> None:
    path = folder / "router.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "router.json").unlink(), "holds no router; tsv-merge method=tsv_c router=likelihood"),
        (lambda folder: (folder / "router.json").write_text("{"), "router.json cannot be read"),
        (lambda folder: change(folder, version=2), "has version 2, not 1; merge again"),
        (lambda folder: change(folder, router="os.system"), "router=os.system: choose from: likelihood, mass"),
        (lambda folder: change(folder, parameters={"epsilon": -1}), "router.epsilon=-1: give a positive number"),
        (lambda folder: change(folder, parameters={"nope": 1}), "nope"),
        (lambda folder: change(folder, parameters=[1]), "router.json cannot be read"),
        (lambda folder: change(folder, tasks="a"), "tasks is not a list of names"),
        (lambda folder: change(folder, files={}), "router.json cannot be read"),
        (lambda folder: change(folder, layers=["x.weight"]), "'y/z/.*' is not part of a router"),
        (lambda folder: (folder / "router.safetensors").write_bytes(b"damaged"), "not the file that router.json was"),
        (lambda folder: (folder / "router.safetensors").unlink(), "not the file that router.json was"),
    ],
)
def test_damage_is_named(tmp_path: Path, break_it: Any, words: str) -> None:
    write_router(tmp_path, fitted())
    break_it(tmp_path)
    with pytest.raises(UserError, match=words):
        read_router(tmp_path)
