"""tsv-exp as a user types it: a tiny end-to-end sweep, and bad input."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import SMALL, results, tsv_exp, tsv_exp_in_an_interpreter
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from yaml import YAMLError

from tsv_exp.commands.app.guard import task_key, text_paths
from tsv_exp.config import conf_dir
from tsv_exp.errors import UserError
from tsv_exp.runtime.messages.failures import error_message, expected, unexpected_message


def test_a_sweep_end_to_end(tmp_path: Path) -> None:
    methods = "method=zero_shot,individual,tsv_m,consensus_ta,tsv_c+likelihood"
    done = tsv_exp("-m", methods, *SMALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {entry["method"]: entry for entry in results(tmp_path)}
    assert set(found) == {"zero_shot", "individual", "tsv_m", "consensus_ta", "tsv_c"}
    assert all(entry["status"] == "ok" for entry in found.values())
    assert found["zero_shot"]["alpha"] == 0
    assert found["individual"]["test"]["mean_normalized"] == pytest.approx(1)
    assert found["individual"]["stored_bytes"] == 2 * found["tsv_m"]["stored_bytes"]
    assert len(found["tsv_m"]["validation"]) == 30
    assert set(found["consensus_ta"]["chosen"]["lambda"]) == set(found["consensus_ta"]["tasks"])
    (sweep,) = {path.parent for path in tmp_path.glob("outputs/sweeps/**/report.html")}
    assert found["tsv_m"]["finetuned"]["validation"]
    assert found["consensus_ta"]["finetuned"]["validation"]
    assert found["zero_shot"]["finetuned"]["validation"] == {}  # nothing was chosen
    assert all(set(entry["finetuned"]["test"]) == set(entry["tasks"]) for entry in found.values())
    for entry in found.values():
        assert set(entry["data"]) == set(entry["tasks"])
        assert entry["precision"] == entry["provenance"]["precision"] == "float32"
        assert {"device", "device_name", "threads", "cpu_bfloat16", "commit", "dirty"} <= set(entry["provenance"])
        assert entry["settings"]["model"]["seed"] == "${seed}"
    assert found["tsv_m"]["alpha_protocol"]["policy"] == "grid"
    assert found["zero_shot"]["alpha_protocol"]["policy"] == "none"
    assert found["tsv_m"]["provenance"]["engine"]["svd"] == "auto"
    routing = found["tsv_c"]["routing"]
    assert found["tsv_c"]["router"] == "likelihood"
    assert found["tsv_c"]["test"]["mean_accuracy"] <= routing["own_head"]["mean_accuracy"]
    assert found["tsv_m"]["routing"] is None
    assert "tsv_c + likelihood" in (sweep / "table.md").read_text(encoding="utf-8")
    assert list(sweep.glob("plots/confusion-*.png"))
    assert len(list(sweep.glob("*/test_correct.npz"))) == len(found)
    assert all((sweep / name).is_file() for name in ("table.md", "table.csv", "table.tex"))
    assert list(sweep.glob("plots/*.png"))


@pytest.mark.gpu
def test_a_sweep_on_a_gpu_and_in_two_processes_that_share_it(tmp_path: Path) -> None:
    cells = ["-m", "method=tsv_m,tsv_c+likelihood,ties", *SMALL, "alpha=fixed", "evaluate.precision=auto"]
    (tmp_path / "two").mkdir()
    for folder, words in ((tmp_path, []), (tmp_path / "two", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])):
        done = tsv_exp_in_an_interpreter(*cells, "device=cuda", *words, folder=folder)
        assert done.returncode == 0, done.stderr
    found = [results(folder) for folder in (tmp_path, tmp_path / "two")]
    for entry in [*found[0], *found[1]]:
        assert entry["provenance"]["device_name"] == torch.cuda.get_device_name()
    alone, shared = ({entry["method"]: entry["test"]["accuracy"] for entry in entries} for entries in found)
    for method, accuracy in alone.items():
        assert shared[method] == pytest.approx(accuracy, abs=0.1)  # 20 examples: two of them


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "method=tsv_m,nope"], ["method=nope", "tsv_m"]),
        (["model=nope"], ["model=nope", "tiny"]),
        (["tasks=99"], ["tasks=99", "20"]),
        (["tasks=[]"], ["empty"]),
        (["tasks=[digits,digits]"], ["more than once"]),
        (["tasks=[nope]"], ["nope", "digits"]),
        (["sed=1"], ["sed"]),
        (["seed=abc"], ["seed=abc", "Integer"]),
        (["method.rank_fraktion=1"], ["rank_fraktion"]),
        (["alpha=fixed", "alpha.value=-1"], ["alpha.value"]),
        (["engine.svd=fancy"], ["engine.svd=fancy", "exact"]),
        (["tracking=wandb", "tracking.mode=sideways"], ["sideways", "offline"]),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    done = tsv_exp(
        *arguments, *[small for small in SMALL if small.split("=")[0] not in str(arguments)], folder=tmp_path
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "free space" not in done.stderr
    text = " ".join(done.stderr.split())
    assert all(word in text for word in words), text
    assert list(tmp_path.iterdir()) == []


def test_a_config_error_needs_no_torch(tmp_path: Path) -> None:
    typed = "sys.argv = ['tsv-exp', 'method=nope']"
    script = f"import sys; {typed}; from tsv_exp.commands import exp; exp.main(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.split()[-1] == "False"


def test_keys_of_tasks_are_typed_below_tasks() -> None:
    typed = ["tasks.Cars.data=/data/2024_01", "tasks=8", "tasks.Cars.data.input=img"]
    wanted = ["++task.Cars.data='/data/2024_01'", "tasks=8", "++task.Cars.data.input=img"]
    assert [text_paths(task_key(argument)) for argument in typed] == wanted


def composition_error(typed: list[str]) -> str:
    """What is said of overrides that the configuration refuses."""
    with (
        initialize_config_dir(str(conf_dir()), version_base="1.3"),
        pytest.raises(ConfigCompositionException) as raised,
    ):
        compose("config", typed)
    return error_message(raised.value)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            "model.finetune.stepz=3",
            "model.finetune.stepz: there is no such key; did you mean steps? ",
        ),
        ("sed=1", "sed: there is no such key; did you mean seed? the configuration has: name, "),
        ("engine.zzz=1", "engine.zzz: there is no such key; engine has: svd, "),
        ("data.train=5", "data.train: there is no such key; did you mean model.data.train?"),
        ("rank_fraction=0.1", "rank_fraction: there is no such key; did you mean method.rank_fraction?"),
        ("zzz.lr=5", "zzz: there is no such key; the configuration has: name, "),
        ("method=tsvm", "method=tsvm: there is no such option; did you mean tsv_m? choose from: ace, "),
        ("task=digits", "task: this command has no such option; choose tasks as in tasks='[digits,clock]'"),
        ("hydra/output=x", "hydra/output=x: there is no such option; choose from: default"),
        ("task_set=clip", "task_set: this command has no such option; --help lists its options"),
    ],
)
def test_an_unknown_key_or_option_is_told_those_that_are_there(typed: str, line: str) -> None:
    assert composition_error([typed]).startswith(line)


def test_our_own_error_is_what_is_said() -> None:
    outer = RuntimeError("Error in call to target")
    outer.__cause__ = UserError("the reason\nin two lines")
    assert error_message(outer) == "the reason in two lines"


def test_a_file_that_is_no_yaml_is_named() -> None:
    with pytest.raises(YAMLError) as raised:
        OmegaConf.create("name: x\n _target_: [")
    assert expected(raised.value)
    assert "line 2" in error_message(raised.value)


def test_memory_that_runs_out_is_no_bug(tmp_path: Path) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has a total capacity of 8 GiB")
    assert unexpected_message(full, tmp_path) == "CUDA out of memory; choose a device= with more memory, or device=cpu"
    assert unexpected_message(KeyError("x"), tmp_path) == f"unexpected KeyError: 'x' (see {tmp_path}/tsv-exp.log)"


def test_a_folder_of_the_user_that_hides_tasks_is_named(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text("data: pictures")
    told = composition_error([f"hydra.searchpath=['file://{tmp_path}']", "tasks=my_set"])
    assert told.startswith("tasks: a folder of this name in --config-dir")


def test_an_unknown_option_in_a_defaults_list_is_named_with_its_file() -> None:
    said = "In 'method/mine': Could not find 'method/tsv'\n\nAvailable options in 'method':\n\tties\n\ttsv_m\n"
    assert error_message(RuntimeError(said)) == (
        "method/mine.yaml: method=tsv: there is no such option; did you mean tsv_m? choose from: ties, tsv_m"
    )


@pytest.mark.parametrize(
    ("said", "plugin"),
    [
        ("Unknown plugin class : 'hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher'", "ray"),
        ("Could not override 'hydra/sweeper'.\nCould not find 'hydra/sweeper/optuna'\n", "optuna"),
    ],
)
def test_what_a_missing_plugin_needs_is_said(said: str, plugin: str) -> None:
    assert error_message(RuntimeError(said)) == (
        f"the Hydra plugin for {plugin} is not installed; pip install 'tsv_exp[{plugin}]'"
    )
    assert error_message(RuntimeError("Could not find 'hydra/sweeper/nope'")) == "Could not find 'hydra/sweeper/nope'"
