"""Trackers fail without harm, and none needs nothing."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from synthetic import results

from tsv_exp.config import conf_dir
from tsv_exp.errors import UserError
from tsv_exp.tracking.protocol import Description, FailsafeRun, NoTracker, OpenRun, needs
from tsv_exp.tracking.tensorboard import TensorBoardTracker
from tsv_exp.tracking.wandb import WandbTracker


class Broken(OpenRun):
    def __init__(self, error: BaseException):
        self.error = error
        self.closed = False

    def open(self, description: Description) -> OpenRun:
        return self

    def point(self, point: Any) -> None:
        raise self.error

    def close(self, exit_code: int) -> None:
        self.closed = True


@pytest.mark.parametrize("error", [RuntimeError("the service\nis gone"), OSError(28, "No space left on device")])
def test_a_failure_is_one_line_of_warning_and_the_run_is_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    broken = Broken(error)
    run = FailsafeRun(broken, Description("tsv_m", "run", tmp_path))
    with caplog.at_level(logging.WARNING):
        run.point({})
        run.close(0)
    (message,) = caplog.messages
    assert message.startswith("tracking: the run in ")
    assert "\n" not in message
    assert str(error).split()[0] in message
    assert broken.closed


def test_what_cannot_be_opened_is_not_tracked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Refusing:
        def open(self, description: Description) -> OpenRun:
            raise ValueError("no account")

    run = FailsafeRun(Refusing(), Description("tsv_m", "run", tmp_path))
    run.results(results(), tmp_path)
    run.close(0)
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        f"the run in {tmp_path} was not tracked: no account"
    ]
    assert run.reference is None


def test_interrupts_are_not_swallowed(tmp_path: Path) -> None:
    run = FailsafeRun(Broken(KeyboardInterrupt()), Description("tsv_m", "run", tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run.point({})


@pytest.mark.parametrize(
    ("name", "kind"), [("none", NoTracker), ("wandb", WandbTracker), ("tensorboard", TensorBoardTracker)]
)
def test_the_configuration_gives_the_trackers(name: str, kind: type) -> None:
    assert type(instantiate(OmegaConf.load(conf_dir() / "tracking" / f"{name}.yaml"))) is kind


def test_a_tracker_that_is_not_installed_is_refused() -> None:
    with pytest.raises(UserError, match=r"tracking=wandbee: it is not installed; pip install 'tsv_exp\[wandbee\]'"):
        needs("wandbee")


def test_no_tracking_needs_no_other_package() -> None:
    hidden = "import sys; sys.modules |= {'wandb': None, 'tensorboard': None};"
    code = f"{hidden} from tsv_exp.tracking.protocol import NoTracker; from tsv_exp.commands import exp; NoTracker()"
    subprocess.run([sys.executable, "-c", code], check=True)
