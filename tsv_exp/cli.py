"""tsv-exp: one run, or with -m a sweep; imports torch only once the configuration is known to be sound."""

import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tsv_exp import resume, workers
from tsv_exp.commands import INTERRUPTED, imported
from tsv_exp.config import Config, conf_dir
from tsv_exp.errors import UserError
from tsv_exp.files import atomic
from tsv_exp.progress import Lines, console, stop, told

if TYPE_CHECKING:
    from tsv_exp.tracking import Tracker

log = logging.getLogger(__name__)

VERSIONS = ("tsv_exp", "torch", "open_clip_torch", "hydra-core")

EXTRAS = {name: f"hydra-{name}-launcher" for name in ("joblib", "submitit", "ray")} | {"optuna": "hydra-optuna-sweeper"}
# as Hydra says that a plugin is missing: by its class, or by its group's option
MISSING = re.compile(r"(?:Unknown plugin class : 'hydra_plugins\.hydra_|Could not find 'hydra/sweeper/)([a-z]+)")
# Our presets have the names of the plugins' own options, which Hydra takes for their schemas.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema", UserWarning)

exit_code = 0

ConfigStore.instance().store(name="schema", node=Config)


def main() -> int:
    """The command: 0 only if everything that was asked for was done."""
    global exit_code
    exit_code = 0
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us, who make one line of them
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a sweep on Ray tells nobody about it
    sys.argv[1:] = [local_data(argument) for argument in sys.argv[1:]]
    try:
        _app()
    except KeyboardInterrupt:
        exit_code = stop(
            "tsv-exp", "interrupted; finished runs are kept, and the same sweep again goes on from them", INTERRUPTED
        )
    except (HydraException, OmegaConfBaseException, UserError, OSError) as error:
        exit_code = stop("tsv-exp", one_line(error), 1)
    except RuntimeError as error:
        if not MISSING.match(str(error)):
            raise
        exit_code = stop("tsv-exp", one_line(error), 1)
    finally:
        if "tsv_exp.sweep" in sys.modules:  # a sweep had begun
            sys.modules["tsv_exp.sweep"].stop_watching()
    return exit_code


def local_data(argument: str) -> str:
    """`tasks.<name>.data=DIR` as the model's option, since `tasks` itself is a number or a list."""
    key, equals, value = argument.partition("=")
    parts = key.split(".")
    if equals and len(parts) == 3 and parts[0] == "tasks" and parts[2] == "data":
        return f"++model.local_data.{parts[1]}={value}"
    return argument


def one_line(error: BaseException) -> str:
    """What went wrong, for a person: the innermost of our own errors, else the message without Hydra's search path."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return " ".join(str(cause).split())
        cause = cause.__cause__
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or error
        return f"{where}{reason}; free space, or choose other folders with paths.outputs= and paths.cache="
    text = str(error).split("\nConfig search path")[0].split("\n    full_key")[0]
    if (missing := MISSING.search(text)) and missing[1] in EXTRAS:
        return f"{EXTRAS[missing[1]]} is not installed; pip install {EXTRAS[missing[1]]}"
    return " ".join(text.split()) or type(error).__name__


def unexpected(error: Exception, folder: Path) -> str:
    """What is said of an error that is not of our own making; `folder` is the run's."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError":  # by name: torch may not be imported yet
        return f"{text.partition('. ')[0]}; choose a device= with more memory, or device=cpu"
    return f"unexpected {type(error).__name__}: {text} (see {folder}/tsv-exp.log)"


@contextmanager
def reported(command: str, interrupted: str = "interrupted") -> Iterator[None]:
    """What goes wrong inside ends the process with one line.

    Around a command's Hydra main and inside it too: Hydra prints a line of its own for what leaves that.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us, who make one line of them
    try:
        yield
    except (HydraException, OmegaConfBaseException, UserError, OSError) as error:
        raise SystemExit(stop(command, one_line(error), 1)) from error
    except KeyboardInterrupt:
        raise SystemExit(stop(command, interrupted, INTERRUPTED)) from None


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _app(cfg: DictConfig) -> float | None:
    """One run; what it returns is for sweepers that search."""
    global exit_code
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    with _job(folder) if sweep else nullcontext():
        results = execute(cfg, folder, sweep)
    if results["status"] != "ok":
        exit_code = 1
    if not sweep:
        _show(results, folder)
    return objective(results)


@contextmanager
def _job(folder: Path) -> Iterator[None]:
    """A run of a sweep, in this process or one of its own: the process that was started shows what it does."""
    from tsv_exp.sweep import watching

    if not watching():
        root = logging.getLogger()
        for handler in [one for one in root.handlers if isinstance(one, Lines)]:
            root.removeHandler(handler)
        workers.claim_gpu(HydraConfig.get().job.num)
    with told(folder, HydraConfig.get().job.override_dirname):
        yield


def objective(results: Mapping[str, Any]) -> float | None:
    """The best mean normalized validation accuracy, if any was measured."""
    return max((point["mean_normalized"] for point in results.get("validation") or ()), default=None)


def execute(cfg: DictConfig, folder: Path, sweep: bool) -> dict[str, Any]:
    """Run one configuration; write results.json and table.md into `folder` whatever happens, and return the results.

    In a sweep, what an earlier run of the same cell found is taken over.
    """
    tracker: Tracker | None = None
    results: dict[str, Any] = {"status": "failed", "error": "interrupted", **described(cfg)}
    began = time.perf_counter()
    outputs = Path(cfg.paths.outputs)
    try:
        if cfg.paths.cache is not None:
            os.environ["TSV_EXP_CACHE"] = str(cfg.paths.cache)
        tracker = hydra.utils.instantiate(cfg.tracking)
        known = resume.find(resume.cell_key(cfg), outputs) if sweep and cfg.resume else None
        if known is not None:
            earlier, found = known
            results |= {"reused_from": str(earlier), **found}
            log.info("reused from %s", earlier)
        else:
            # before the rest: then everything is here that had to be fetched
            found = imported("tsv_exp.run").run(cfg, folder)
            cell = {"cell": resume.cell_key(cfg), "commits": resume.commits(cfg)}
            results |= {**found, **cell, "status": "ok", "error": None}
            log.info("done in %.1f s", time.perf_counter() - began)
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        results["error"] = one_line(error)
        log.error(results["error"])
    except Exception as error:  # a bug costs one run, not the sweep, and must not go unrecorded
        results["error"] = unexpected(error, folder)
        log.error(results["error"])
        log.debug("traceback", exc_info=True)
    finally:
        _write(results, folder)
    if results["status"] == "ok":
        resume.remember(results["cell"], outputs, folder)
    if tracker is not None:
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        tracker.log_run(results, config, folder.parent if sweep else folder, folder.parent.name if sweep else None)
    return results


def described(cfg: DictConfig) -> dict[str, Any]:
    """What results.json says of every run, also of one that fails."""
    from tsv_exp.report.cells import parameters

    method: Any = OmegaConf.to_container(cfg.method, resolve=True)
    return {
        "seed": cfg.seed,
        "model": HydraConfig.get().runtime.choices["model"],
        "tasks": OmegaConf.to_container(cfg.tasks) if OmegaConf.is_config(cfg.tasks) else cfg.tasks,
        "method": method.get("name"),
        "params": parameters(method),
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in VERSIONS},
    }


def _write(results: Mapping[str, Any], folder: Path) -> None:
    from tsv_exp.report import run_table

    for name, text in (
        ("results.json", json.dumps(results, indent=1, ensure_ascii=False)),
        ("table.md", run_table(results)),
    ):
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _show(results: Mapping[str, Any], folder: Path) -> None:
    from rich.markdown import Markdown

    if results["status"] == "ok":
        console.print(Markdown((folder / "table.md").read_text(encoding="utf-8")))
    console.print(f"Results: {folder}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    from tsv_exp.cli import main as _main  # this module under its own name, where a sweep's report looks for it

    sys.exit(_main())
