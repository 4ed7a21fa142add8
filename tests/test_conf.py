"""Every configuration that can be typed composes, and every `_target_` in it can be called with its arguments."""

import inspect
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from tsv_exp import merge
from tsv_exp.commands.app import composition as composition
from tsv_exp.config import conf_dir, with_router
from tsv_exp.data.examples import VALUES, Kind
from tsv_exp.data.tasks import source_of, task_of
from tsv_exp.methods.specification.method import Method
from tsv_exp.tasks.definitions import chosen, members


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("[!_]*.yaml"))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def targets(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        return [found for value in node.values() for found in targets(value)] + ([node] if "_target_" in node else [])
    return [found for value in node for found in targets(value)] if isinstance(node, list) else []


@pytest.mark.parametrize(("command", "typed"), [("config", "seed"), ("analyze", "select"), ("finetune", "save_every")])
def test_every_command_has_types_and_what_all_have_in_common(command: str, typed: str) -> None:
    needed = ["task=digits"] if command == "finetune" else []
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found = compose(command, overrides=needed)
        assert (found.seed, found.paths) == (0, {"outputs": "outputs", "cache": None})
        with pytest.raises(ConfigCompositionException):
            compose(command, overrides=[*needed, f"{typed}=abc"])
        with pytest.raises(ConfigCompositionException):
            compose(command, overrides=[*needed, "sed=1"])


# Groups compose independently of each other: every option once, beside the default of the other group.
@pytest.mark.parametrize("method", options("method"))
def test_methods(method: str) -> None:
    config = OmegaConf.to_container(composed(f"method={method}"), resolve=True)
    assert isinstance(config, dict)
    assert config["method"]["name"] == method
    Method.from_config(config["method"])


@pytest.mark.parametrize("model", options("model"))
def test_models(model: str) -> None:
    config = OmegaConf.to_container(composed(f"model={model}"), resolve=True)
    assert isinstance(config, dict)
    for node in targets({key: value for key, value in config.items() if key != "method"}):
        arguments = {key: value for key, value in node.items() if not key.startswith("_")}
        inspect.signature(resolve_name(node["_target_"])).bind(**arguments)


@pytest.mark.parametrize("model", options("model"))
def test_low_rank_fine_tuning_of_every_model(model: str) -> None:
    full, lora = (
        OmegaConf.to_container(composed(f"model={model}", f"finetune={kind}"), resolve=True)
        for kind in ("full", "lora")
    )
    added = lora["model"]["finetune"].pop("lora")  # type: ignore[index,call-overload]
    assert lora == full
    inspect.signature(resolve_name(added.pop("_target_"))).bind(**added)


@pytest.mark.parametrize("group", ["alpha", "inputs", "router", "tracking"])
def test_other_groups(group: str) -> None:
    for option in options(group):
        for node in targets(OmegaConf.to_container(composed(f"{group}={option}"), resolve=True)[group]):  # type: ignore[index,call-overload]
            arguments = {key: value for key, value in node.items() if not key.startswith("_")}
            inspect.signature(resolve_name(node["_target_"])).bind(**arguments)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_experiments_name_what_exists(experiment: str) -> None:
    text = (conf_dir() / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")
    for plugin in re.findall(r"override /hydra/sweeper: (\w+)", text):
        pytest.importorskip(f"hydra_plugins.hydra_{plugin}_sweeper", reason=f"the extra {plugin} is not installed")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={experiment}"], return_hydra_config=True)
    parsed = OverridesParser.create().parse_overrides(
        [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    )
    for override in parsed:
        value = override.value()
        named = value.list if isinstance(value, ChoiceSweep) else [value]
        if override.key_or_group in ("method", "model", "alpha") and not isinstance(value, Glob):
            typed = [with_router(f"{override.key_or_group}={option}") for option in named]
            parts = [one.partition("=") for several in typed for one in several]
            assert all(option in options(group) for group, _, option in parts)


@pytest.mark.parametrize("experiment", ["all_methods", "alpha_sweep"])
def test_sweeps_over_methods_have_all_that_need_no_inputs(experiment: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={experiment}"], return_hydra_config=True)
    assert config.hydra.mode.name == "MULTIRUN"
    (override,) = OverridesParser.create().parse_overrides([f"method={config.hydra.sweeper.params.method}"])
    names = options("method")
    assert override.value().filter(names) == [name for name in names if not Method.load(name).needs_moments]


LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher.config", "JobLibLauncherConf"),
    "submitit_local": ("hydra_submitit_launcher.config", "LocalQueueConf"),
    "submitit_slurm": ("hydra_submitit_launcher.config", "SlurmQueueConf"),
    "ray": ("hydra_ray_launcher._config", "RayLauncherConf"),
}


@pytest.mark.parametrize("launcher", options("hydra/launcher"))
def test_launchers_have_only_options_that_their_plugin_knows(launcher: str) -> None:
    module, schema = LAUNCHERS[launcher]
    plugin = pytest.importorskip(f"hydra_plugins.{module}", reason=f"the extra for {launcher} is not installed")
    preset = OmegaConf.merge(OmegaConf.structured(getattr(plugin, schema)), read(f"hydra/launcher/{launcher}.yaml"))
    assert preset._target_ == getattr(plugin, schema)()._target_


def read(name: str) -> Any:
    return OmegaConf.load(conf_dir() / name)


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
    assert merge(base, finetuned, method, moments={"weight": torch.eye(5).expand(2, -1, -1)}).tasks == ("a", "b")


def test_the_folder_is_the_repositorys() -> None:
    assert (conf_dir() / "config.yaml").is_file()
    assert Path(__file__).parents[1] in conf_dir().parents


@pytest.mark.parametrize("command", ["config", "analyze", "finetune"])
def test_help_names_the_groups_of_the_command_and_no_others(command: str) -> None:
    content = OmegaConf.load(conf_dir() / f"{command}.yaml")
    template = OmegaConf.to_container(content.hydra.help)["template"]  # type: ignore[index,call-overload]
    named = dict(re.findall(r"^(\w+):\s+\$\{(?:options|described):(\w+)\}$", template, re.MULTILINE))
    groups = [group for entry in content.defaults if isinstance(entry, DictConfig) for group in entry]
    expected = {group: group for group in groups if "/" not in group and " " not in group}
    tasks = {} if command == "finetune" else {"SET": "task_set", "TASK": "task"}
    assert named == expected | tasks


def test_help_lists_what_the_search_path_adds(tmp_path: Path) -> None:
    for group, name in (("task", "my_birds"), ("task_set", "my_set"), ("model", "my_clip")):
        (tmp_path / group).mkdir()
        (tmp_path / group / f"{name}.yaml").write_text("data: folder")
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "my_mean.yaml").write_text("# A mean of mine.\nname: my_mean\n")
    code = "import sys; from tsv_exp.commands.exp import main; sys.exit(main())"
    shown = subprocess.run(
        [sys.executable, "-c", code, "--help", f"hydra.searchpath=[file://{tmp_path}]"], capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    lines = dict(line.split(": ", 1) for line in shown.stdout.splitlines() if re.match(r"\w+: \w", line))
    assert {"my_birds", "Cars", "digits"} <= set(lines["TASK"].split(", "))
    assert {"my_set", "clip", "tiny"} <= set(lines["SET"].split(", "))
    assert {"my_clip", "tiny", "vit_b_32"} <= set(re.findall(r"^  (\w+)", shown.stdout, re.MULTILINE))
    assert re.search(r"^  tasks=8 +the model's first N tasks", shown.stdout, re.MULTILINE)
    assert re.search(r"^  evaluate.precision=auto +\w", shown.stdout, re.MULTILINE)
    assert re.search(r"^  debug +A complete run of the embedded benchmark in seconds", shown.stdout, re.MULTILINE)
    assert re.search(r"^  my_mean +A mean of mine\.$", shown.stdout, re.MULTILINE)
    assert re.search(r"^  tsv_m +TSV-Merge \(arXiv 2412.00081, algorithm 1\)", shown.stdout, re.MULTILINE)
    assert "_number" not in shown.stdout


@cache
def kinds() -> dict[str, Kind]:
    """Task set -> what the models encode that have it."""
    models = [composed(f"model={name}").model for name in options("model")]
    return {model.task_set: resolve_name(model._target_).kind for model in models if model.get("task_set")}


@pytest.mark.parametrize("name", options("task"))
def test_tasks(name: str) -> None:
    ((found, definition),) = chosen([name], {})
    assert found == name
    kind = next(kind for task_set, kind in kinds().items() if name in members(task_set))
    task = task_of(name, definition, "paper", ("{}",), kind)
    assert (len(task.classes) > 1) == (task.metric not in VALUES), "classes, but where labels are values"
    assert all("{}" in template for template in task.templates)
    assert callable(source_of(task).examples)


@pytest.mark.parametrize("name", options("task_set"))
def test_task_sets_name_tasks_and_belong_to_models(name: str) -> None:
    names = members(name)
    assert set(names) <= set(options("task"))
    assert len(names) == len(set(names)) >= 8
    assert name in kinds()


@pytest.mark.parametrize("name", options("method"))
def test_the_docs_tell_paper_defaults_and_alpha_of_a_method(name: str) -> None:
    page = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{name}` \|(.*)\|$", page, re.MULTILINE)
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)]  # paper, equation, parameters, α, α without data
    text = (conf_dir() / "method" / f"{name}.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"arXiv (\d{4}\.\d{5})", text)) <= set(re.findall(r"\d{4}\.\d{5}", cells[0]))
    assert "α" in "".join(line for line in text.splitlines() if line.startswith("#"))
    method = Method.load(name)
    for step in (*method.before, *method.after):
        assert step.name in cells[2]
    for key, value in method.own_params.items():
        told = (
            {None: "null", True: "true", False: "false"}.get(value)
            if value is None or isinstance(value, bool)
            else f"{value:g}"
        )
        expected = f"`{key}` chosen per task" if method.tune and key == method.tune.parameter else f"`{key}` {told}"
        assert expected in cells[2] or (value is None and f"`{key}`" in cells[2])
    alpha = method.alpha
    if alpha.steps > 1:
        step = "1/30" if alpha.stop == 1 else f"{alpha.stop / alpha.steps:g}"
        assert cells[3:] == [f"(0, {alpha.stop:g}], {step}", f"{alpha.default:g}"]
    elif alpha.default:
        assert set(cells[3:]) == {f"{alpha.default:g}"}
