"""tsv-analyze: interference of the tasks of a model, or of any fine-tuned models of one base."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tsv_exp.commands.app.guard import error_guard, run_command
from tsv_exp.commands.app.hydra_app import hydra_app
from tsv_exp.runtime.imports import import_late
from tsv_exp.sweeps.names import suffix as suffix  # folder name in conf/analyze.yaml
from tsv_exp.tracking.protocol import Description, FailsafeRun


def main() -> int:
    """Run the command: returns 0 if everything was written, else prints one line on standard error and returns 1."""
    return run_command("tsv-analyze", _app)


@hydra_app("analyze")
def _app(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    with error_guard("tsv-analyze"):
        tracked = FailsafeRun(instantiate(cfg.tracking), _description(cfg, folder))
        try:
            tracked.report(import_late("tsv_exp.commands.analysis").run(cfg, folder), ())
        except BaseException:
            tracked.close(1)
            raise
        tracked.close(0)


def _description(cfg: DictConfig, folder: Path) -> Description:
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return Description(cfg.name or "analysis", "analysis", folder, "analyze", cfg.tags, cfg.notes, config)
