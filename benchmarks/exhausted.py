"""Error messages of commands when a resource is exhausted: a Markdown row for each case.

    python benchmarks/exhausted.py

Each case runs a command in a separate process under a limit. It must end with exit code 1 and one line, without a
traceback, and leave no temporary file. Cases with a separate file system (tmpfs) need permission to mount it.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from killed_commands import models

MERGE = [sys.executable, "-c", "import sys; from tsv_exp.commands.main import merge; sys.exit(merge())"]
REPORT = [sys.executable, "-c", "import sys; from tsv_exp.commands.main import report; sys.exit(report())"]
EXPERIMENT = [sys.executable, "-c", "import sys; from tsv_exp.commands.main import exp; sys.exit(exp())"]


def limit(kind: int, value: int) -> Callable[[], None]:
    """Return a function that sets a limit in the child process."""
    return lambda: resource.setrlimit(kind, (value, value))


@contextmanager
def mounted(place: Path, options: str) -> Iterator[bool]:
    """Mount a separate file system at `place`; yields whether that succeeded."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False
    )
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", str(place)], check=True)


def row(
    name: str, command: list[str], folder: Path, prepare: Callable[[], None] | None = None, **environment: str
) -> bool:
    """Run a case and print its row; returns whether it ended as required."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        preexec_fn=prepare,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "400"} | environment,
        timeout=300,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("tsv-") or " cannot " in line]
    left = list(folder.rglob("*.partial"))
    right = done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr and not left
    if done.returncode == 0:  # the resource sufficed
        right, lines = not left, ["(ended well)"]
    message = (lines or [f"{done.stderr[-300:]!r}"])[-1].replace(str(folder), "DIR").replace("|", "\\|")
    print(f"| {name} | {done.returncode} | {message} |{'' if right else ' UNEXPECTED'}", flush=True)
    return right


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from synthetic import results, write_run

    print("| case | exit code | line |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="exhausted") as place:
        folder = Path(place)
        os.environ["TSV_EXP_CACHE"] = str(folder / "cache")
        merge = [*MERGE, *models(folder), "shard_mb=0.2"]
        write_run(folder / "runs" / "0", results())
        report = [*REPORT, str(folder / "runs")]
        good = [
            row(
                "tsv-merge, files of at most 100 kB",
                [*merge, f"out={folder / 'a'}"],
                folder,
                limit(resource.RLIMIT_FSIZE, 100_000),
            ),
            row(
                "tsv-report, files of at most 1 kB",
                [*report, "--out", str(folder / "b")],
                folder,
                limit(resource.RLIMIT_FSIZE, 1000),
            ),
        ]
        for handles in (6, 8, 20):
            good.append(
                row(
                    f"tsv-merge, {handles} file handles",
                    [*merge, f"out={folder / f'c{handles}'}"],
                    folder,
                    limit(resource.RLIMIT_NOFILE, handles),
                )
            )
        good.append(
            row(
                "tsv-report, 10 file handles",
                [*report, "--out", str(folder / "d")],
                folder,
                limit(resource.RLIMIT_NOFILE, 10),
            )
        )
        for gigabytes in (0.3, 1, 2, 4):
            good.append(
                row(
                    f"tsv-merge, {gigabytes} GB of address space",
                    [*merge, f"out={folder / f'e{gigabytes}'}"],
                    folder,
                    limit(resource.RLIMIT_AS, int(gigabytes * 1e9)),
                )
            )
        (folder / "file").touch()
        good.append(
            row("tsv-merge, a file is where the folder should be", [*merge, f"out={folder / 'file' / 'out'}"], folder)
        )
        small = [
            "tasks=2",
            "model.data.train=64",
            "model.data.validation=20",
            "model.data.test=20",
            "model.finetune.steps=3",
        ]
        experiment = [*EXPERIMENT, *small, f"paths.outputs={folder / 'outputs'}"]
        good.append(
            row(
                "tsv-exp, no home and no cache",
                experiment,
                folder,
                HOME="/proc/none",
                XDG_CACHE_HOME="",
                TSV_EXP_CACHE="",
            )
        )
        with mounted(folder / "full", "size=1m") as there:
            if there:
                good.append(row("tsv-merge, full disk", [*merge, f"out={folder / 'full' / 'out'}"], folder))
                (folder / "full" / "rest").write_bytes(b"")
                good.append(row("tsv-report, full disk", [*report, "--out", str(folder / "full" / "report")], folder))
        with mounted(folder / "fixed", "size=1m,ro") as there:
            if there:
                good.append(row("tsv-merge, read-only folder", [*merge, f"out={folder / 'fixed' / 'out'}"], folder))
                good.append(row("tsv-report, read-only folder", [*report, "--out", str(folder / "fixed")], folder))
                good.append(
                    row(
                        "tsv-exp, read-only cache without its models",
                        [*experiment, f"paths.cache={folder / 'fixed'}"],
                        folder,
                    )
                )
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
