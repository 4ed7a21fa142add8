import pytest

from tsv_exp.errors import UserError
from tsv_exp.tasks.task import Task, select

CATALOGUE = {name: Task(name, ("x",), ("{}",)) for name in ("a", "b", "c")}


def test_prefixes_and_lists_keep_their_order() -> None:
    assert [task.name for task in select(CATALOGUE, 2)] == ["a", "b"]
    assert [task.name for task in select(CATALOGUE, ["c", "a"])] == ["c", "a"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (0, "1 to 3"),
        (4, "1 to 3"),
        ([], "empty"),
        (["a", "a"], "more than once"),
        (["z"], "unknown task 'z'"),
        ("a", "list"),
        (True, "list"),
    ],
)
def test_what_is_not_a_task_list(wanted: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(CATALOGUE, wanted)  # type: ignore[arg-type]
