"""Which tasks `tasks=` means, and what their YAMLs and the command line say of them."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from tsv_exp.config import conf_dir, plain_values
from tsv_exp.errors import UserError
from tsv_exp.tasks.definitions import complete, options, selected, task_names


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the search path with tasks and a set."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    for name, text in {
        "task/my_birds": "data: birds\nclasses: [robin, wren]\n",
        "task/my_owls": "defaults: [my_birds]\ntemplates: ['an owl: {}']\n",
        "task/sub/my_ducks": "data: {path: ducks, input: picture}\n",
        "task_set/my_set": "tasks: [my_birds, Cars, digits]\n",
        "task_set/broken": "names: [my_birds]\n",
    }.items():
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def composed(mine: Path, *overrides: str) -> dict[str, Any]:
    path = f"hydra.searchpath=['file://{mine}']"
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", [path, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return plain_values(cfg)


def names(mine: Path, *overrides: str) -> list[str]:
    return [name for name, _ in selected(composed(mine, *overrides))]


def test_numbers_sets_and_lists_keep_their_order(mine: Path) -> None:
    assert names(mine, "tasks=2") == ["digits", "greek"]
    assert names(mine, "tasks=3", "model=vit_b_16") == ["Cars", "DTD", "EuroSAT"]
    assert names(mine, "tasks=my_set") == ["my_birds", "Cars", "digits"]
    assert names(mine, "tasks=[my_owls,sub/my_ducks,greek]") == ["my_owls", "my_ducks", "greek"]
    assert names(mine, "tasks=20") == names(mine, "tasks=tiny")
    assert names(mine, "tasks=3", "model.task_set=my_set") == ["my_birds", "Cars", "digits"]


def test_a_yaml_of_ones_own_can_start_from_another(mine: Path) -> None:
    ((_, owls),) = selected(composed(mine, "tasks=[my_owls]"))
    assert owls["classes"] == ["robin", "wren"]
    assert owls["templates"] == ["an owl: {}"]
    assert owls["data"] == {"path": "birds"}


def test_settings_of_a_run_replace_keys(mine: Path) -> None:
    typed = ["tasks=[Cars,my_birds]", "++task.Cars.data=/cars", "++task.my_birds.classes=[a,b]", "++task.DTD.data=/dtd"]
    (_, cars), (_, birds) = selected(composed(mine, *typed))
    assert cars["data"] == {"path": "/cars", "test": "test", "validation": None}  # the splits are still the protocol's
    assert birds["classes"] == ["a", "b"]
    drawn = complete("digits", {"data": {"_target_": "x", "subject": "digits"}}, {"data": "/pictures"})
    assert drawn["data"] == {"path": "/pictures"}
    columns = complete("x", {"data": {"hub": "a/b"}}, {"data": {"input": "img"}})
    assert columns["data"] == {"hub": "a/b", "input": "img"}


def test_options_are_those_of_the_whole_search_path(mine: Path) -> None:
    composed(mine)
    assert {"my_birds", "sub/my_ducks", "Cars"} <= set(options("task"))
    assert set(options("task_set")) == {"broken", "clip", "my_set", "tiny"} | set(options("task_set"))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (0, "tasks=0: this model has 20 tasks; give 1 to 20"),
        (21, "tasks=21: this model has 20 tasks; give 1 to 20"),
        ([], r"the list is empty; choose from: .*Cars"),
        (["Cars", "Cars"], "'Cars' is given more than once"),
        (["Digit"], r"unknown task 'Digit'; did you mean digits\? choose from: "),
        (["z"], "unknown task 'z'; choose from: .*Cars.*digits"),
        ("nope", "tasks=nope: unknown task set; choose from: .*clip.*tiny"),
        ("Cars", r"unknown task set.*for one task: tasks='\[Cars\]'"),
        ("a b", "give a number such as tasks=8, a task set, or a list"),
        (True, "give a number"),
    ],
)
def test_what_is_not_a_choice_of_tasks(wanted: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        task_names(wanted, "clip")


def test_a_model_without_a_set(mine: Path) -> None:
    with pytest.raises(UserError, match=r"tasks=8: this model has no task_set; give a list"):
        task_names(8, None)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("tasks=broken", r"task_set/broken\.yaml: expected one key, tasks: a list"),
        ("++task.Venus.data=x", r"tasks\.Venus: unknown task 'Venus'; choose from: .*my_birds"),
        ("++task.digits.dat=x", "task digits: unknown key 'dat'; a task has: data, classes, "),
    ],
)
def test_what_is_wrong_is_named(mine: Path, typed: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        selected(composed(mine, "tasks=1", typed))


def test_a_name_that_is_there_twice_is_refused(mine: Path) -> None:
    (mine / "task/Cars.yaml").write_text("data: cars")
    with pytest.raises(UserError, match=r"task 'Cars' is in file://.*conf and in file://.*: rename yours"):
        selected(composed(mine, "tasks=[Cars]"))


def test_a_task_needs_data() -> None:
    with pytest.raises(UserError, match="task x: its YAML names no data; add a line such as data: FOLDER"):
        complete("x", {"classes": ["a"]}, {})
