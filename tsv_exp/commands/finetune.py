"""tsv-finetune: fine-tune a model on one of its tasks, in one process or in several by torchrun."""

from omegaconf import DictConfig

from tsv_exp.commands.app.guard import error_guard, run_command
from tsv_exp.commands.app.hydra_app import hydra_app
from tsv_exp.runtime.console import output
from tsv_exp.runtime.imports import import_late


def main() -> int:
    """Run the command: returns 0 if the checkpoint was written, else prints one line and returns 1."""
    return run_command("tsv-finetune", _app, _resume_hint)


def _resume_hint() -> str:
    return "run the same command again to resume from the last saved step"


@hydra_app("finetune")
def _app(cfg: DictConfig) -> None:
    with error_guard("tsv-finetune", _resume_hint):
        path = import_late("tsv_exp.commands.finetuning").run_in_processes(cfg)
    if path is not None:
        output.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
