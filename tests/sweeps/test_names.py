"""What runs, sweeps and their folders are called."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from tsv_exp.config import conf_dir
from tsv_exp.sweeps.names import run_name, suffix, sweep_name, varied

RECORD = """hydra:
  sweeper: {params: {tasks: "8,14", method: "glob(ts*)"}}
  overrides: {task: ["method.rank_fraction=0.1,0.2", "seed=3"]}
"""


def test_a_run_is_named_by_what_differs_in_its_sweep(tmp_path: Path) -> None:
    typed = ["tasks=8", "method=tsv_m", "method.rank_fraction=0.1", "seed=3"]
    assert varied(typed, tmp_path) == typed  # nothing is recorded
    (tmp_path / "multirun.yaml").write_text(RECORD)
    assert varied(typed, tmp_path) == typed[:3]
    assert run_name("tsv_m", varied(typed, tmp_path)) == "tsv_m T=8 rank_fraction=0.1"


def test_a_sweep_is_named_by_experiment_and_time() -> None:
    folder = Path("outputs/sweeps/2026-01-02/03-04-05-my-name")
    assert sweep_name(folder, "paper_table") == "paper_table 2026-01-02 03-04-05-my-name"
    assert sweep_name(folder, None) == "2026-01-02 03-04-05-my-name"


@pytest.mark.parametrize(("name", "ending"), [(None, ""), ("", ""), ("draft", "-draft"), ("a/b c", "-a-b-c")])
def test_a_name_ends_the_folder(name: str | None, ending: str) -> None:
    assert suffix(name) == ending
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=[f"name='{name}'"] if name else [], return_hydra_config=True)
    assert str(config.hydra.sweep.dir).endswith(ending)
    assert bool(ending) or str(config.hydra.sweep.dir)[-1].isdigit()


def test_a_local_file_applies_unasked_and_experiments_override_it(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "default.yaml").write_text("# @package _global_\ndevice: cpu\ntasks: 3\n")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        search = f"hydra.searchpath=[file://{tmp_path}]"
        config = compose("config", overrides=[search, "experiment=debug"])
        assert (config.device, config.tasks, config.name) == ("cpu", 2, "debug")
        assert compose("config", overrides=["tasks=4"]).device == "auto"
