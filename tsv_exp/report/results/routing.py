"""The part of results.json about a router, which chose the model and the head of every example."""

from collections.abc import Mapping, Sequence
from typing import Any

from tsv_exp.report.results.checks import number, values_of

NO_ROUTER = "none"  # the option of conf/router in which every example is evaluated by its own task's model
PARTS = ("routed", "own_head", "told")


def routed_name(method: str, router: str) -> str:
    """A method, followed by its router if it has one: tsv_c + likelihood."""
    return method if router == NO_ROUTER else f"{method} + {router}"


def read_routing(values: Any, tasks: Sequence[str]) -> dict[str, Any]:
    """Check what a router chose; empty if there was none.

    Returns:
        `routed`, `own_head` and `told`: accuracy by task, and their mean; `confusion`: task -> chosen task -> share.

    Raises:
        ValueError, TypeError, KeyError: a value is missing, or no fraction.
    """
    if not values:
        return {}
    found: dict[str, Any] = {}
    for part in PARTS:
        given = values_of(f"routing.{part}", values[part])
        accuracy = {task: _fraction(f"routing.{part}.{task}", given["accuracy"][task]) for task in tasks}
        found[part] = {"accuracy": accuracy, "mean_accuracy": _fraction(f"routing.{part}", given["mean_accuracy"])}
    rows: Mapping[str, Any] = values_of("routing.confusion", values["confusion"])
    found["confusion"] = {
        task: {other: _fraction(f"routing.confusion.{task}", rows[task][other]) for other in tasks} for task in tasks
    }
    return found


def _fraction(what: str, value: Any) -> float:
    return number(what, value, least=-1, most=1 + 1e-6)  # correlations may be negative; sums of shares are rounded
