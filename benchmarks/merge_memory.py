"""Time and peak anonymous memory (mapped pages of files not counted) of tsv-merge on synthetic checkpoints.

    OMP_NUM_THREADS=2 python benchmarks/merge_memory.py --model vit --tasks 8 --methods tsv_m ties --out memory.json
    OMP_NUM_THREADS=2 python benchmarks/merge_memory.py --model llama --tasks 4 --methods "tsv_m rank_fraction=0.0625"
    OMP_NUM_THREADS=1 python benchmarks/merge_memory.py --model llama_8b --blocks 1 --only "model.layers.*" --tasks 4 \
        --methods "tsv_m rank_fraction=0.03125"

`vit` and `vit_l_14` are the image encoders of ViT-B-32 and ViT-L-14 in float32 (88 M and 304 M parameters), `llama` a
language model of 1.2 B in bfloat16, `llama_8b` the shapes of Llama-3-8B with `--blocks` of its 32 blocks, and its
embedding and head unless `--only` selects other tensors. The
fine-tuned models differ by noise plus matrices of decaying spectrum. They are written to a temporary folder, 1.2 GB
each for ViT-L-14. The blocks of `llama_8b` share storage, so that a model takes 2.5 GB on disk whatever their number
(`overlapping_models`); the merged model takes 16 GB for all blocks. `load` is the load of the machine when a merge
began, `floor_seconds` the time of the necessary products of TSV-M at the measured rate of one thread. A line per minute
shows how far a merge has come.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from tsv_exp.checkpoints.readers import read
from tsv_exp.storage.tensor_files import stream

ROWS = 8192  # that are drawn at a time
MINUTE = 60.0  # seconds
TSV_MERGE = str(Path(sys.executable).with_name("tsv-merge"))  # the command installed next to this Python


def vit(width: int, layers: int, patch: int, tokens: int, out: int) -> dict[str, tuple[int, ...]]:
    """Shapes of CLIP's image encoder."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (width, 3, patch, patch), "class_embedding": (width,)}
    shapes |= {"positional_embedding": (tokens, width), "proj": (width, out)}
    shapes |= {f"ln_{place}.{kind}": (width,) for place in ("pre", "post") for kind in ("weight", "bias")}
    matrices = {"attn.in_proj_": (3 * width, width), "attn.out_proj.": (width, width)}
    matrices |= {"mlp.c_fc.": (4 * width, width), "mlp.c_proj.": (width, 4 * width)}
    for i in range(layers):
        shapes |= {f"blocks.{i}.{name}weight": shape for name, shape in matrices.items()}
        shapes |= {f"blocks.{i}.{name}bias": shape[:1] for name, shape in matrices.items()}
        shapes |= {f"blocks.{i}.ln_{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
    return shapes


VIT = vit(768, 12, 32, 50, 512)  # ViT-B-32


def llama(blocks: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a language model with `blocks` layers of width 2048."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32000, 2048), "model.norm.weight": (2048,)}
    for i in range(blocks):
        linear = {"self_attn.q_proj": (2048, 2048), "self_attn.k_proj": (512, 2048), "self_attn.v_proj": (512, 2048)}
        linear |= {"self_attn.o_proj": (2048, 2048), "mlp.gate_proj": (8192, 2048), "mlp.up_proj": (8192, 2048)}
        linear |= {"mlp.down_proj": (2048, 8192)}
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in linear.items()}
        shapes[f"model.layers.{i}.input_layernorm.weight"] = (2048,)
    return shapes


def llama_8b(blocks: int) -> dict[str, tuple[int, ...]]:
    """Shapes of Llama-3-8B with so many of its 32 blocks; embedding and head are not tied."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (128256, 4096), "model.norm.weight": (4096,)}
    for i in range(blocks):
        linear = {"self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (1024, 4096), "self_attn.v_proj": (1024, 4096)}
        linear |= {"self_attn.o_proj": (4096, 4096), "mlp.gate_proj": (14336, 4096), "mlp.up_proj": (14336, 4096)}
        linear |= {"mlp.down_proj": (4096, 14336)}
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in linear.items()}
        shapes |= {f"model.layers.{i}.{name}_layernorm.weight": (4096,) for name in ("input", "post_attention")}
    return shapes | {"lm_head.weight": (128256, 4096)}


def models(folder: Path, shapes: dict[str, tuple[int, ...]], tasks: int, dtype: torch.dtype) -> list[Path]:
    """Write a base and `tasks` fine-tuned models, a block of rows at a time; the base comes first."""
    g = torch.Generator().manual_seed(0)
    paths = [folder / f"{name}.safetensors" for name in ("base", *(f"task{t}" for t in range(tasks)))]
    kinds = {name: (dtype, shape) for name, shape in shapes.items()}
    with paths[0].open("wb") as file:
        stream(file, kinds, (drawn(shape, dtype, g) for shape in shapes.values()))
    known = read(paths[0])
    for path in paths[1:]:
        with path.open("wb") as file:
            stream(file, kinds, (changed(known[name], g) for name in shapes))
    return paths


def overlapping_models(folder: Path, shapes: dict[str, tuple[int, ...]], tasks: int, dtype: torch.dtype) -> list[Path]:
    """The same, with the tensors of one kind in all blocks as overlapping windows of rows of one stored tensor.

    The matrix of block i begins i rows further down, so no two blocks are equal, and each is as hard to merge as if it
    had been drawn alone.
    """
    g = torch.Generator().manual_seed(0)
    kinds: dict[str, list[str]] = {}
    for name in shapes:
        kinds.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    paths = [folder / f"{name}.pt" for name in ("base", *(f"task{t}" for t in range(tasks)))]
    for path in paths:
        known, content = {} if path == paths[0] else read(paths[0]), dict[str, Tensor]()
        for names in kinds.values():
            rows, *others = shapes[names[0]]
            if known:
                first = known[names[0]]
                stored = changed(first.as_strided((rows + len(names) - 1, *others), first.stride()), g)
            else:
                stored = drawn((rows + len(names) - 1, *others), dtype, g)
            content |= {name: stored.narrow(0, start, rows) for start, name in enumerate(names)}
        torch.save({name: content[name] for name in shapes}, path)
    return paths


def drawn(shape: tuple[int, ...], dtype: torch.dtype, g: torch.Generator) -> Tensor:
    """A random weight of the base."""
    weight = torch.empty(shape, dtype=dtype)
    for rows in weight.split(ROWS):
        rows.copy_(torch.randn(rows.shape, generator=g) * 0.02)
    return weight


def changed(weight: Tensor, g: torch.Generator) -> Tensor:
    """A fine-tuned weight: noise is added, and to a matrix components of a decaying spectrum."""
    if weight.dim() < 2:
        return weight + (torch.randn(weight.shape, generator=g) * 2e-5).to(weight.dtype)
    flat = weight.shape[0], weight[0].numel()
    r = min(256, *flat)  # more than the components that are used
    left, right = (torch.randn(size, r, generator=g) / size**0.5 for size in flat)
    right = ((0.3 * torch.arange(1, r + 1) ** -0.75) * right).T
    made = torch.empty_like(weight)
    for start, rows, part in zip(weight.split(ROWS), made.split(ROWS), left.split(ROWS), strict=True):
        delta = torch.randn(rows.shape, generator=g).mul_(2e-5).add_((part @ right).view(rows.shape))
        rows.copy_(start + delta.to(weight.dtype))
    return made


def floor(shapes: dict[str, tuple[int, ...]], tasks: int, options: list[str]) -> float | None:
    """Seconds of TSV-M's necessary float32 products: Gram matrices, the other side's vectors, polar factors, result."""
    share = next((float(word.partition("=")[2]) for word in options if word.startswith("rank_fraction=")), 1 / tasks)
    if options[0] != "tsv_m":
        return None
    flops = 0.0
    for shape in shapes.values():
        if len(shape) == 2:
            m, n = max(shape), min(shape)
            k = max(1, int(share * n))
            flops += tasks * (m * n**2 + 2 * m * n * k)  # half of a Gram matrix's entries; the other side's vectors
            flops += (m + n) * (tasks * k) ** 2 + 2 * m * n * tasks * k  # Gram matrices of the concatenations; result
    x = torch.randn(2048, 2048)
    start = time.process_time()
    for _ in range(5):
        x @ x
    return flops / (5 * 2 * 2048**3 / (time.process_time() - start))


def measured(command: list[str], environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """Seconds, processor seconds, and the largest anonymous memory in MB, sampled every 10 ms.

    Prints what the process has used so far, and the last line of its log, once a minute.
    """
    start, peak, used = time.perf_counter(), 0, os.times()
    shown = start
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=errors, stderr=errors, env=environment)
        with open(f"/proc/{process.pid}/status", "rb", buffering=0) as status:  # one cheap read per sample
            while process.poll() is None:
                found = re.search(rb"RssAnon:\s*(\d+)", os.pread(status.fileno(), 4096, 0))
                peak = max(peak, int(found[1]) if found else 0)
                time.sleep(0.01)
                if time.perf_counter() - shown > MINUTE:
                    shown = time.perf_counter()
                    ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
                    spent = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
                    text = os.pread(errors.fileno(), 1 << 20, 0).decode(errors="replace")
                    last = (text.splitlines() or [""])[-1]
                    print(f"{spent:.0f} s of processor time, peak {peak / 1024:.0f} MB; {last}", file=sys.stderr)
        if process.wait():
            errors.seek(0)
            raise SystemExit(errors.read().decode())
    now = os.times()
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    return {"seconds": time.perf_counter() - start, "cpu_seconds": cpu, "peak_anonymous_mb": peak / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["vit", "vit_l_14", "llama", "llama_8b"], default="vit")
    parser.add_argument("--blocks", type=int, default=20, help="of the language model: 20 are 1.2 B parameters")
    parser.add_argument("--only", default="*", help="pattern of the tensors that take part")
    parser.add_argument("--tasks", type=int, nargs="+", default=[8])
    parser.add_argument(
        "--methods", nargs="+", default=["tsv_m", "ties"], help='each with its options: "ties density=0.1"'
    )
    parser.add_argument("--shard-mb", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="where the models are written; default: a temporary folder")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    shapes, dtype = {
        "vit": (VIT, torch.float32),
        "vit_l_14": (vit(1024, 24, 14, 257, 768), torch.float32),
        "llama": (llama(args.blocks), torch.bfloat16),
        "llama_8b": (llama_8b(args.blocks), torch.bfloat16),
    }[args.model]
    shapes = {name: shape for name, shape in shapes.items() if fnmatchcase(name, args.only)}
    results = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write = overlapping_models if args.model == "llama_8b" else models
        paths = write(folder, shapes, max(args.tasks), dtype)
        for tasks in args.tasks:
            for number, method in enumerate(args.methods):
                words = [f"base={paths[0]}", f"models=[{','.join(map(str, paths[1 : tasks + 1]))}]"]
                words += [f"out={folder / f'out{tasks}-{number}'}", f"shard_mb={args.shard_mb}"]
                options = method.split()
                command = [TSV_MERGE, *words, f"method={options[0]}", *options[1:]]
                result = {
                    "command": " ".join(["python", *sys.argv]),
                    "model": args.model,
                    "parameters": sum(torch.Size(s).numel() for s in shapes.values()),
                }
                result |= {"tasks": tasks, "method": method, "load": os.getloadavg()[0], **measured(command)}
                result |= {"floor_seconds": floor(shapes, tasks, options)}
                result |= {"threads": int(os.environ.get("OMP_NUM_THREADS", 0)), "torch": torch.__version__}
                print(json.dumps(result), flush=True)
                results.append(result)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
