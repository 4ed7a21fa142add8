"""Some mutants of every kind of file; `python benchmarks/fuzz.py` reads thousands."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from fuzzing import kinds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = {"results": 4, "analyses": 4}  # each of five mutants; a report takes a while
KINDS = kinds()


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_are_refused_in_a_line_or_read_right(kind: str) -> None:
    mutants, target = KINDS[kind]

    @settings(
        max_examples=EXAMPLES.get(kind, 60),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutants)
    def read(mutant: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="mutant") as folder:
            assert target(mutant, Path(folder))

    read()


def test_mutations_change_something() -> None:
    """The harness is of use only if most mutants differ from their seed."""
    different = []

    @settings(max_examples=50, derandomize=True, database=None, deadline=None)
    @given(st.data())
    def compare(data: st.DataObject) -> None:
        from mutations import mutated_bytes

        seed = bytes(range(200))
        different.append(data.draw(mutated_bytes(seed)) != seed)

    compare()
    assert sum(different) > len(different) / 2
