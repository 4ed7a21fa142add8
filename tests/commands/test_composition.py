"""What can be typed in place of an option of a group, on the command line, in sweeps and in experiments."""

import os
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import forked
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf, open_dict

from tsv_exp.commands import exp as exp
from tsv_exp.config import conf_dir
from tsv_exp.sweeps.expansion import job_overrides

FIXED = {"_target_": "tsv_exp.evaluation.alpha.Fixed", "validate": False}


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.mark.parametrize(("typed", "value"), [("0.3", 0.3), ("1", 1), ("1e-3", 0.001), ("-1", -1)])
def test_a_number_is_the_fixed_alpha(typed: str, value: float) -> None:
    assert composed(f"alpha={typed}").alpha == FIXED | {"value": value} == composed(f"alpha='{typed}'").alpha
    assert composed("alpha=fixed", f"alpha.value={typed}").alpha == composed(f"alpha={typed}").alpha


def test_keys_of_the_number_can_be_set() -> None:
    assert composed("alpha=0.3", "alpha.validate=true").alpha == FIXED | {"value": 0.3, "validate": True}


@pytest.mark.parametrize("typed", ["alpha=abc", "alpha=true", "method=0.3"])
def test_what_is_no_option_lists_the_options_without_parts_of_others(typed: str) -> None:
    with pytest.raises(MissingConfigException) as raised:
        composed(typed)
    assert ("fixed" if "alpha" in typed else "tsv_m") in str(raised.value)
    assert "\t_" not in str(raised.value)


def test_a_method_with_a_router_is_one_option() -> None:
    found = composed("method=tsv_c+likelihood", "router.epsilon=0.2")
    assert (found.method.name, found.router.epsilon) == ("tsv_c", 0.2)
    assert found == composed("method=tsv_c", "router=likelihood", "router.epsilon=0.2")
    with pytest.raises(MissingConfigException, match="likelihood"):
        composed("method=tsv_c+nope")


def test_an_experiment_names_a_number(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "third.yaml").write_text("# @package _global_\ndefaults:\n  - override /alpha: 0.3\n")
    assert composed(f"hydra.searchpath=[file://{tmp_path}]", "experiment=third").alpha.value == 0.3


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["alpha=0.3,0.5"], [["alpha=0.3"], ["alpha=0.5"]]),
        (["method=glob(ts*_c)", "tasks=2"], [["method=tsv_c", "tasks=2"]]),
        (["method=tsv_c,tsv_c+mass"], [["method=tsv_c"], ["method=tsv_c+mass"]]),
        (["alpha=glob(*)"], [[f"alpha={name}"] for name in ("auto", "data_free", "fixed", "grid", "race", "search")]),
    ],
)
def test_the_jobs_of_a_sweep(overrides: list[str], expected: list[list[str]]) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        sweep = loader.load_configuration("config", ["hydra.mode=MULTIRUN", *overrides], run_mode=exp.RunMode.MULTIRUN)
        jobs = job_overrides(sweep, loader)
        assert jobs == expected
        for job in jobs if "alpha" in overrides[0] else ():
            config = loader.load_sweep_config(sweep, list(job))
            assert config.hydra.runtime.choices.alpha == job[0].partition("=")[2]


def test_the_configuration_of_a_job_is_as_hydra_composes_it() -> None:
    jobs = [
        ["method=ties", "method.density=0.3", "tasks.digits.metric=f1", "+extra=3"],
        ["experiment=debug", "model.data.train=9", "~model.task_set", "hydra.job.chdir=false"],
        ["method=tsv_c+likelihood", "router.epsilon=0.2", "model.checkpoints=/a b/c", "tasks=[digits,clock]"],
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        sweep = loader.load_configuration("config", ["hydra.mode=MULTIRUN"], run_mode=exp.RunMode.MULTIRUN)
        for job in jobs:
            expected = ConfigLoaderImpl.load_sweep_config(loader, sweep, job)
            assert OmegaConf.to_yaml(loader.load_sweep_config(sweep, job)) == OmegaConf.to_yaml(expected)
            with open_dict(expected):
                del expected["hydra"]
            assert OmegaConf.to_yaml(loader.load_values(sweep, job)) == OmegaConf.to_yaml(expected)
        config = loader.load_sweep_config(sweep, jobs[0])
        config.method.density = config.hydra.job.num = 1  # a copy: the next one is as before
        assert loader.load_sweep_config(sweep, jobs[0]).method.density == 0.3
        with pytest.raises(ConfigCompositionException, match="densty"):
            loader.load_sweep_config(sweep, ["method=ties", "method.densty=0.3"])
        with pytest.raises(ConfigCompositionException, match="sed"):
            loader.load_values(sweep, ["method=ties", "sed=3"])


def test_an_experiment_sweeps_over_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    params = "hydra: {mode: MULTIRUN, sweeper: {params: {alpha: 0.3, method: 'glob(ts*_c)'}}}"
    (folder / "fourth.yaml").write_text(f"# @package _global_\n{params}\n")
    done = shown("-m", "-c", "job", "-p", "alpha.value", "-cd", str(tmp_path), "experiment=fourth", folder=tmp_path)
    assert done.stdout.splitlines() == ["--- # alpha=0.3 method=tsv_c experiment=fourth", "0.3"]


def shown(*arguments: str, folder: Path) -> CompletedProcess[str]:
    return forked.command("exp", *arguments, cwd=folder, env=os.environ, timeout=60)


def test_a_sweep_shows_the_configuration_of_every_job(tmp_path: Path) -> None:
    done = shown("-m", "--cfg", "job", "method=ties,tsv_m", "alpha=0.3,0.5", folder=tmp_path)
    assert done.returncode == 0
    documents = list(yaml.safe_load_all(done.stdout))
    found = [(document["method"]["name"], document["alpha"]["value"]) for document in documents]
    assert found == [("ties", 0.3), ("ties", 0.5), ("tsv_m", 0.3), ("tsv_m", 0.5)]
    assert done.stdout.splitlines()[0] == "--- # method=ties alpha=0.3"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-m", "--info"], "tsv-exp: Only one of --run, --multirun, --cfg, --info"),
        (
            ["-m", "--cfg", "job", "method=nope,ties"],
            "tsv-exp: method=nope: there is no such option; choose from: ace, ",
        ),
    ],
)
def test_what_cannot_be_shown_is_one_line(arguments: list[str], line: str, tmp_path: Path) -> None:
    done = shown(*arguments, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1


def test_a_part_of_the_configuration(tmp_path: Path) -> None:
    done = shown("--cfg", "job", "-p", "method", "method=ties", folder=tmp_path)
    assert (done.returncode, yaml.safe_load(done.stdout)["name"]) == (0, "ties")


@pytest.mark.parametrize(("launcher", "typed"), [("joblib", "n_jobs"), ("submitit_local", "timeout_min")])
def test_a_preset_of_a_launcher_extends_the_plugin_without_a_warning(launcher: str, typed: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):  # warnings are errors in tests
        config = compose("config", overrides=[f"hydra/launcher={launcher}"], return_hydra_config=True)
        assert typed in config.hydra.launcher
        with pytest.raises(ConfigCompositionException):
            compose("config", overrides=[f"hydra/launcher={launcher}", f"hydra.launcher.{typed}=abc"])
