"""A real-sized rehearsal: random ViT-B-32, 8 synthetic checkpoints in three formats, from a local hub server.

    python benchmarks/rehearsal.py FOLDER [--formats hub paper folder] > benchmarks/results/rehearsal.txt

Writes about 4 GB per format into FOLDER, then runs `tsv-exp model=vit_b_32 tasks=8` on each and prints time and memory.
Nothing but the weights, the number of images and HF_ENDPOINT differs from a real run. The first run makes and caches
the class heads and images of the others.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import worlds
from hub import Hub
from merge_memory import measured

from tsv_exp.checkpoints.readers import Reader
from tsv_exp.models.clip.names import clip_weights

worlds.LAYERS, worlds.WIDTH, worlds.PATCH, worlds.SIZE = 12, 768, 32, 224
worlds.TEXT_WIDTH, worlds.TEXT_LAYERS, worlds.EMBEDDING = 512, 12, 512
TASKS = worlds.first(8)
RANK, SCALE = 16, 1e-3


def tuned(start: worlds.Weights, seed: int) -> worlds.Weights:
    """Every matrix of the start plus a random low-rank matrix, similar to fine-tuning."""
    draw = worlds.Draw(seed)
    return {
        name: w + SCALE * draw.tensor(len(w), RANK, scale=1.0) @ draw.tensor(RANK, w.shape[1], scale=1.0)
        if w.dim() == 2
        else w
        for name, w in start.items()
    }


def write(root: Path, formats: list[str]) -> None:
    """The base and the fine-tuned checkpoints in these formats, and the data sets."""
    base = worlds.whole(0)
    (root / "models/openai/clip-vit-base-patch32").mkdir(parents=True)
    torch.save(base, root / "models/openai/clip-vit-base-patch32/pytorch_model.bin")
    worlds.data(root, TASKS, train=20, test=10)
    start = {name: w for name, w in base.items() if name.startswith("vision_model.")}
    clip = clip_weights(Reader(Path("memory"), base), "base")
    encoder = {f"model.{name}": clip[name].clone() for name in clip if not name.startswith("transformer.")}
    for seed, task in enumerate(TASKS, start=1):
        weights = tuned(start, seed)
        ours = clip_weights(
            Reader(Path("memory"), weights | {"visual_projection.weight": base["visual_projection.weight"]}), "x"
        )
        if "hub" in formats:
            place = root / f"models/tanganke/clip-vit-base-patch32_{task.source['checkpoint_name']}"
            place.mkdir(parents=True)
            save_file(weights, place / "model.safetensors")
        if "paper" in formats:
            place = root / f"paper/ViT-B-32/{task.name}Val"
            place.mkdir(parents=True)
            torch.save(
                encoder | {f"model.{name}": ours[name].clone() for name in ours}, place / "nonlinear_finetuned.pt"
            )
            if seed == 1:
                torch.save(encoder, place / "nonlinear_zeroshot.pt")
        if "folder" in formats:
            (root / "folder").mkdir(exist_ok=True)
            save_file(
                {name: ours[name].clone().contiguous() for name in ours}, root / f"folder/{task.name}.safetensors"
            )


def run(root: Path, hub: Hub, *overrides: str) -> None:
    """Execute one run and print its time and memory."""
    command = ["model=vit_b_32", "tasks=8", "method=tsv_m", f"paths.outputs={root}/outputs", *overrides]
    caches = {"HF_ENDPOINT": hub.url, "HF_HOME": str(root / "hf"), "TSV_EXP_CACHE": str(root / "cache")}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    load = os.getloadavg()[0]
    print("tsv-exp", *(part.replace(str(root), "FOLDER") for part in command), flush=True)
    took = measured([sys.executable, "-m", "tsv_exp.commands.exp", *command], dict(os.environ) | caches | quiet)
    file = max(root.glob("outputs/runs/*/*/results.json"), key=lambda path: path.stat().st_mtime)
    results = json.loads(file.read_text())
    seconds = {name: round(value) for name, value in results["seconds"].items()}
    print(f"  {took['seconds']:.0f} s in all {seconds}; load of the machine before {load:.1f}")
    print(f"  peak anonymous memory {took['peak_anonymous_mb'] / 1e3:.1f} GB")
    print(f"  family {results['checkpoints']['family']}, alpha {results['alpha']:.2f}", end=", ")
    print(f"{len(results['validation'])} values tried, test accuracy {results['test']['mean_accuracy']:.4f}")
    print(f"  from the hub: {sum('GET' in line and 'resolve' in line for line in hub.requests)} files\n", flush=True)
    hub.requests.clear()


def main() -> None:
    """Write the files, serve them, and execute the runs."""
    parser = argparse.ArgumentParser(description="A real-sized rehearsal of the CLIP benchmark without a network.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--formats", nargs="+", default=["hub", "paper", "folder"])
    arguments = parser.parse_args()
    root = arguments.folder.resolve()
    if not (root / "models").exists():
        write(root, arguments.formats)
    places = {"hub": [], "paper": [f"model.checkpoints={root}/paper"], "folder": [f"model.checkpoints={root}/folder"]}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, no GPU: {not torch.cuda.is_available()}\n")
    with Hub(root).running() as hub:
        for name in arguments.formats:
            run(root, hub, *places[name])


if __name__ == "__main__":
    main()
