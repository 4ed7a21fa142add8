"""Merging LoRA adapters into one: tsv-merge form=lora and PEFT's add_weighted_adapter, on the shapes of a 7-B Llama.

    OMP_NUM_THREADS=1 python benchmarks/adapters.py --layers 1 --modules q_proj --out adapters.json
    OMP_NUM_THREADS=1 python benchmarks/adapters.py --layers 32 --modules all --only ours

Adapters of rank 16 in float32 with random factors. The model has 32 layers of 7 modules; `--layers` and
`--modules` select a part of them; the table prints how many of the 224 it is. Each row is a separate process that reads
the adapters, merges and writes the result: wall time, processor time (less affected by other load), the time of the
merge alone if the process reports it, and peak anonymous memory. PEFT gets the base's modules without content, so that
it does not read a base; normally it holds one in memory. PEFT's combinations with `svd` are truncated to `--rank`; tsv-
merge is exact at rank 128 unless `rank=` is given.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from tsv_exp.storage.tensor_files import save

RANK, LAYERS = 16, 32
SHAPES = {  # (out, in)
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (4096, 4096),
    "self_attn.v_proj": (4096, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (11008, 4096),
    "mlp.up_proj": (11008, 4096),
    "mlp.down_proj": (4096, 11008),
}


def chosen(layers: int, modules: list[str]) -> dict[str, tuple[int, int]]:
    """Shapes of the modules that take part."""
    names = [name for name in SHAPES if modules == ["all"] or name.rpartition(".")[2] in modules]
    return {f"model.layers.{layer}.{name}": SHAPES[name] for layer in range(layers) for name in names}


def write_adapters(folder: Path, shapes: dict[str, tuple[int, int]], count: int) -> list[Path]:
    """Adapters with random factors in PEFT's format."""
    places = []
    for task in range(count):
        generator, tensors = torch.Generator().manual_seed(task), dict[str, Tensor]()
        for name, (m, n) in shapes.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, n, generator=generator) / n**0.5
            tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(m, RANK, generator=generator) / m**0.5
        places.append(folder / f"adapter{task}")
        places[-1].mkdir()
        save(places[-1] / "adapter_model.safetensors", tensors)
        targets = sorted({name.rpartition(".")[2] for name in shapes})
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": targets}
        (places[-1] / "adapter_config.json").write_text(json.dumps(config))
    return places


def peft_merge(places: list[Path], shapes: dict[str, tuple[int, int]], combination: str, rank: int, out: Path) -> float:
    """Merge the adapters with PEFT and save the result; returns the seconds of add_weighted_adapter alone."""
    from peft import PeftModel

    root = nn.Module()
    for name, (m, n) in shapes.items():
        parent, parts = root, name.split(".")
        for part in parts[:-1]:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(
            parts[-1], nn.utils.skip_init(nn.Linear, n, m, bias=False)
        )  # its memory pages are never touched
    names = [place.name for place in places]
    model = PeftModel.from_pretrained(root, places[0], adapter_name=names[0])
    for place in places[1:]:
        model.load_adapter(place, adapter_name=place.name)
    options: dict[str, float] = {} if combination == "cat" else {"svd_rank": rank}
    if "ties" in combination or "dare" in combination:
        options["density"] = 0.2
    started = time.perf_counter()
    model.add_weighted_adapter(names, [1.0] * len(names), "merged", combination_type=combination, **options)
    seconds = time.perf_counter() - started
    model.save_pretrained(out, selected_adapters=["merged"])
    return seconds


def watched(command: list[str]) -> tuple[float, float, float, str]:
    """Seconds, processor seconds, peak anonymous memory in MB and output of a process."""
    started, peak, before = time.perf_counter(), 0, processor()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            sizes = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
            peak = max([peak, *map(int, sizes)])
            time.sleep(0.01)
        told, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{command} failed: {errors}")
    return time.perf_counter() - started, processor() - before, peak / 1024, told


def processor() -> float:
    """Processor seconds of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--modules", nargs="+", default=["q_proj"])
    parser.add_argument("--combinations", nargs="+", default=["cat", "svd", "ties_svd", "dare_linear_svd"])
    parser.add_argument("--rank", type=int, default=RANK, help="rank of PEFT's results with svd")
    parser.add_argument("--only", choices=["ours"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peft", nargs=2, metavar=("COMBINATION", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shapes = chosen(arguments.layers, arguments.modules)
    if arguments.peft:
        combination, place = arguments.peft[0], Path(arguments.peft[1])
        places = sorted(place.glob("adapter*"))
        print(peft_merge(places, shapes, combination, arguments.rank, place / f"peft_{combination}"))
        return
    threads, total = torch.get_num_threads(), LAYERS * len(SHAPES)
    print(f"{len(shapes)} of {total} modules, {arguments.adapters} adapters of rank {RANK}, {threads} threads")
    print(f"{'merge':<36}{'process':>10}{'processor':>12}{'merge alone':>14}{'peak':>10}", flush=True)
    rows: list[dict[str, object]] = []

    def measure(merge: str, command: list[str]) -> None:
        seconds, spent, peak, told = watched(command)
        alone = float(told) if told.strip() else None
        rows.append({"merge": merge, "seconds": seconds, "processor": spent, "alone": alone, "megabytes": peak})
        shown = "" if alone is None else f"{alone:.1f} s"
        print(f"{merge:<36}{seconds:>8.1f} s{spent:>10.1f} s{shown:>14}{peak:>7.0f} MB", flush=True)
        if arguments.out:
            setting = {"modules": len(shapes), "of": total, "threads": threads, "rows": rows}
            arguments.out.write_text(json.dumps(setting, indent=1))

    with tempfile.TemporaryDirectory() as folder:
        places = write_adapters(Path(folder), shapes, arguments.adapters)
        models = f"models=[{','.join(map(str, places))}]"
        merge = [sys.executable, "-m", "tsv_exp.merge_files", models, "form=lora"]
        cut = f"rank={arguments.rank}"
        for words in (["tsv_m"], ["iso_c"], ["task_arithmetic"], ["tsv_m", cut]):
            out = Path(folder, "-".join(words).replace("=", ""))
            measure(f"tsv-merge {' '.join(words)}", [*merge, f"method={words[0]}", *words[1:], f"out={out}"])
        for combination in [] if arguments.only else arguments.combinations:
            same = ["--layers", str(arguments.layers), "--rank", str(arguments.rank), "--modules", *arguments.modules]
            measure(f"PEFT {combination}", [sys.executable, __file__, *same, "--peft", combination, folder])


if __name__ == "__main__":
    main()
