"""Every configuration that can be typed composes, and every `_target_` in it can be called with its arguments."""

import inspect
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from tsv_exp import cli, merge
from tsv_exp.config import conf_dir
from tsv_exp.method import Method


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def targets(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        return [found for value in node.values() for found in targets(value)] + ([node] if "_target_" in node else [])
    return [found for value in node for found in targets(value)] if isinstance(node, list) else []


def test_the_schema_is_registered() -> None:
    assert cli.Config is not None


@pytest.mark.parametrize("model", options("model"))
@pytest.mark.parametrize("method", options("method"))
def test_models_and_methods(model: str, method: str) -> None:
    config = OmegaConf.to_container(composed(f"model={model}", f"method={method}"), resolve=True)
    assert isinstance(config, dict)
    assert config["method"]["name"] == method
    Method.from_config(config["method"])
    for node in targets({key: value for key, value in config.items() if key != "method"}):
        arguments = {key: value for key, value in node.items() if not key.startswith("_")}
        inspect.signature(resolve_name(node["_target_"])).bind(**arguments)


@pytest.mark.parametrize("group", ["alpha", "tracking"])
def test_other_groups(group: str) -> None:
    for option in options(group):
        for node in targets(OmegaConf.to_container(composed(f"{group}={option}"), resolve=True)[group]):  # type: ignore[index,call-overload]
            arguments = {key: value for key, value in node.items() if not key.startswith("_")}
            inspect.signature(resolve_name(node["_target_"])).bind(**arguments)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_experiments_name_what_exists(experiment: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={experiment}"], return_hydra_config=True)
    for group in ("method", "model", "alpha"):
        for option in str(config.hydra.sweeper.params.get(group, "glob(*)")).split(","):
            assert option == "glob(*)" or option in options(group)


@pytest.mark.parametrize("method", options("method"))
def test_python_knows_every_method(method: str) -> None:
    import torch

    base = {"weight": torch.zeros(6, 5), "bias": torch.zeros(5)}
    finetuned = {
        task: {
            name: torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
            for name, value in base.items()
        }
        for seed, task in enumerate(("a", "b"))
    }
    assert merge(base, finetuned, method).tasks == ("a", "b")


def test_the_folder_is_the_repositorys() -> None:
    assert (conf_dir() / "config.yaml").is_file()
    assert Path(__file__).parents[1] in conf_dir().parents
