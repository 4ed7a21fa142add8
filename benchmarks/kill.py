"""Kills commands at random moments and runs them again: the result must equal that of an undisturbed run.

    python benchmarks/kill.py --seed 1 --out benchmarks/results/kill.json

For each command: one undisturbed run, then series of runs that are killed, except the last one. SIGKILL for
most; SIGTERM, SIGHUP and SIGINT must also give their exit code and one line, and leave no temporary file. Commands run
as children of a process that has already loaded the libraries, so that most kills hit the actual work; `torchrun` is
started normally.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from killed_commands import commands, files, models

KILLS = {  # kills per command: fewer for slow commands
    "tsv-merge": 25,
    "tsv-merge tsv_c": 25,
    "tsv-exp": 6,
    "tsv-finetune": 12,
    "tsv-analyze": 12,
    "tsv-report": 25,
    "torchrun": 10,
}
SERIES = 5  # kills before a run may finish
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}


def start(name: str, words: list[str], log: Path) -> int:
    """Start a child process that runs a command; returns its process id."""
    from tsv_exp.commands import main

    child = os.fork()
    if child:
        return child
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    command = name.split()[0]
    sys.argv = [command, *words]
    code = 1
    try:
        code = int(getattr(main, command.removeprefix("tsv-"))() or 0)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os._exit(code)


def waited(child: int) -> int:
    """The exit code of a child; negative: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ended(name: str, words: list[str], folder: Path, number: int, at: float) -> tuple[bool, list[str]]:
    """Start a command and kill it after some seconds; returns whether it was still running, and errors found."""
    log = folder.parent / f"{folder.name}.log"
    child = start(name, words, log)
    time.sleep(at)
    if os.waitpid(child, os.WNOHANG)[0]:
        return False, []
    os.kill(child, number)
    code = waited(child)
    messages = [
        line for line in log.read_text(errors="replace").splitlines() if line.startswith(name.split()[0] + ": ")
    ]
    wrong = []
    if number != signal.SIGKILL and code != 0:
        if code != CODES[signal.Signals(number)]:
            wrong.append(f"exit code {code}")
        if len(messages) != 1 or "Traceback" in log.read_text(errors="replace"):
            wrong.append(f"printed {messages or log.read_text(errors='replace')[-500:]}")
        if left := [str(path) for path in folder.rglob("*.partial")]:
            wrong.append(f"left {left}")
    return True, wrong


def measure(name: str, kills: int, shared: Path, draw: random.Random) -> dict[str, Any]:
    """Kill a command `kills` times and check that it recovers."""
    words_in, result_in = commands(shared)[name]
    with tempfile.TemporaryDirectory(prefix="kill") as place:
        alone = Path(place) / "alone"
        alone.mkdir()
        begun = time.monotonic()
        assert waited(start(name, words_in(alone), Path(place) / "log")) == 0, (Path(place) / "log").read_text()
        seconds = time.monotonic() - begun
        wanted = result_in(alone)
        done: dict[str, Any] = {"command": name, "seconds_alone": round(seconds, 2), "ended": {}, "failures": []}
        count = series = 0
        while count < kills:
            series += 1
            folder = Path(place) / f"series{series}"
            folder.mkdir()
            for _ in range(SERIES):
                number = draw.choice([signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
                running, wrong = ended(name, words_in(folder), folder, number, draw.uniform(0, seconds))
                done["failures"] += wrong
                if running:
                    done["ended"][number.name] = done["ended"].get(number.name, 0) + 1
                    count += 1
            log = Path(place) / "log"
            if (code := waited(start(name, words_in(folder), log))) != 0:
                done["failures"].append(f"run again: exit code {code}: {log.read_text(errors='replace')[-500:]}")
            elif (found := result_in(folder)) != wanted:
                done["failures"].append(f"another result: {found} in place of {wanted}"[:2000])
            elif left := [str(path) for path in folder.rglob("*.partial")]:
                done["failures"].append(f"left {left}")
            shutil.rmtree(folder)
    return done


def torchrun(kills: int, shared: Path, draw: random.Random) -> dict[str, Any]:
    """As `measure`, of tsv-merge by two ranks; one of the ranks or all processes are killed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    words = models(shared)

    def run(folder: Path) -> subprocess.Popen[bytes]:
        line = [*command, "-m", "tsv_exp.merge_files", *words, f"out={folder}", "shard_mb=0.2"]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(line, env=environment, start_new_session=True, stdout=quiet, stderr=quiet)

    with tempfile.TemporaryDirectory(prefix="kill") as place:
        begun = time.monotonic()
        assert run(Path(place) / "alone").wait() == 0
        seconds = time.monotonic() - begun
        wanted = files(Path(place) / "alone", "*.safetensors", "*.index.json")
        done: dict[str, Any] = {"command": "torchrun tsv-merge", "seconds_alone": round(seconds, 2), "failures": []}
        done["ended"] = {"all processes": 0, "one rank": 0}
        while sum(done["ended"].values()) < kills:
            folder = Path(place) / "out"
            for kind in ("all processes", "one rank"):
                process = run(folder)
                time.sleep(draw.uniform(seconds * 0.4, seconds))  # the libraries are loaded before that
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                if process.poll() is None and children:
                    if kind == "all processes":
                        os.killpg(process.pid, signal.SIGKILL)
                        for child in children:  # each rank has its own session
                            os.kill(int(child), signal.SIGKILL)
                    else:
                        os.kill(int(draw.choice(children)), signal.SIGKILL)
                    done["ended"][kind] += 1
                process.wait()
            if (code := run(folder).wait()) != 0:
                done["failures"].append(f"run again: exit code {code}")
            elif files(folder, "*.safetensors", "*.index.json") != wanted:
                done["failures"].append("another result")
            elif list(folder.rglob("*.partial")):
                done["failures"].append("left temporary files")
            shutil.rmtree(folder)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the number of kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="only this command")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from synthetic import results, write_run

    import tsv_exp.commands.analyze
    import tsv_exp.commands.exp
    import tsv_exp.commands.finetuning
    import tsv_exp.commands.merge
    import tsv_exp.commands.report
    import tsv_exp.report.page
    import tsv_exp.report.plots.pictures
    import tsv_exp.run  # noqa: F401 - preloaded for the children

    torch.set_num_threads(1)
    draw, found = random.Random(options.seed), []
    with tempfile.TemporaryDirectory(prefix="kill") as place:
        shared = Path(place)
        os.environ["TSV_EXP_CACHE"] = str(shared / "cache")
        for number, method in enumerate(("ties", "tsv_m", "weight_average")):
            write_run(shared / "runs" / str(number), results(method))
        for name in [*commands(shared), "torchrun"]:
            if options.only in (None, name):
                one = torchrun if name == "torchrun" else lambda *rest, name=name: measure(name, *rest)
                found.append(one(int(KILLS[name] * options.scale), shared, draw))
                print(json.dumps(found[-1]), flush=True)
    if options.out:
        report = {"seed": options.seed, "scale": options.scale, "results": found}
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(one["failures"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
