"""Scripts of benchmarks/ are started from the command line, where the tests' path is not set."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUPPORT = {path.stem for path in (ROOT / "tests/support").glob("*.py")}
ON_THE_PATH = 'sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))'


def imported(text: str) -> set[str]:
    """The first parts of the names of all modules that a program imports."""
    nodes = list(ast.walk(ast.parse(text)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_scripts_find_what_they_import_from_the_tests(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    local = {path.stem for path in script.parent.glob("*.py")}
    assert (imported(text) & SUPPORT - local == set()) or ON_THE_PATH in text
