"""tsv-analyze: interference of the tasks of a model, or of any fine-tuned models of one base."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from tsv_exp.commands.guard import error_guard, run_command
from tsv_exp.commands.hydra_app import hydra_app
from tsv_exp.runtime.imports import import_frozen


def main() -> int:
    """The command: 0 when everything was written, else one line on standard error and 1."""
    return run_command("tsv-analyze", _app)


@hydra_app("analyze")
def _app(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    with error_guard("tsv-analyze"):
        report = import_frozen("tsv_exp.commands.analysis").run(cfg, folder)
        instantiate(cfg.tracking).log_report(report, folder, "analyze")
