"""Checks of a configuration that need no weights and no data, made before a run or a sweep starts."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tsv_exp.arguments import check_nodes
from tsv_exp.config import Engine, Evaluate
from tsv_exp.errors import UserError
from tsv_exp.evaluation.dry_run import dry_run
from tsv_exp.evaluation.inputs import model_of
from tsv_exp.evaluation.routing import check_router
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.devices import check_precision, device_of
from tsv_exp.tasks.definitions import selected

SEEDS = 2**63  # largest seed of torch's generators


def check_configuration(cfg: DictConfig, here: bool = True) -> None:
    """Check the configuration of a run; nothing is read, downloaded, trained or written.

    Args:
        cfg: the configuration of one run.
        here: whether the run executes on this machine, so that its devices are checked too.

    Raises:
        UserError: a value is invalid.
    """
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    plain: Any = OmegaConf.to_container(own, resolve=True)
    if not -SEEDS <= cfg.seed < SEEDS:
        raise UserError(f"seed={cfg.seed}: give a number of at most 63 bits")
    for group in ("model", "alpha", "inputs", "router", "tracking"):
        check_nodes(group, plain[group])
    Engine(**plain["engine"])
    Evaluate(**plain["evaluate"])
    check_precision(cfg.evaluate.precision)
    if here:
        device_of(cfg.device)
    instantiate(cfg.alpha)
    instantiate(cfg.tracking)
    model_of(plain)
    method, tasks = Method.from_config(plain["method"]), selected(cfg)
    if method.needs_moments and not plain["inputs"]:
        raise UserError(f"method {method.name} needs inputs; give inputs=validation, noise or other_tasks")
    if plain["inputs"]:
        instantiate(plain["inputs"])
    per_task = dry_run(method, len(tasks))
    if plain["router"]:
        metrics = {name: str(definition.get("metric") or "accuracy") for name, definition in tasks}
        check_router(instantiate(plain["router"]), per_task, method.name, metrics)
