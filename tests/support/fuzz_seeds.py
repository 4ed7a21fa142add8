"""The seeds of the fuzzing tests: the smallest honest file of each kind.

`python tests/support/fuzz_seeds.py` writes them anew.
"""

import json
import shutil

import torch
from fuzzing import SEEDS
from safetensors.torch import save_file
from synthetic import results, write_run

from tsv_exp.analyze.analysis import analyze
from tsv_exp.analyze.write import write_analysis
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse


def write_seeds() -> None:
    """Write the seeds: the smallest honest file of each kind."""
    shutil.rmtree(SEEDS, ignore_errors=True)
    for name in ("sharded", "adapter", "good"):
        (SEEDS / name).mkdir(parents=True)
    g = torch.Generator().manual_seed(0)
    base = {"layer.weight": torch.randn(6, 4, generator=g), "norm.weight": torch.ones(6), "steps": torch.tensor([3])}
    models = [
        {name: base[name] + 0.1 * torch.randn(base[name].shape, generator=g) for name in base if name != "steps"}
        | {"steps": base["steps"]}
        for _ in range(2)
    ]
    save_file(base, SEEDS / "model.safetensors")
    torch.save(base, SEEDS / "model.pt")
    torch.save(base, SEEDS / "legacy.pt", _use_new_zipfile_serialization=False)
    places = {"layer.weight": "one.safetensors", "norm.weight": "two.safetensors", "steps": "two.safetensors"}
    for file in set(places.values()):
        save_file({name: base[name] for name in base if places[name] == file}, SEEDS / "sharded" / file)
    listed = json.dumps({"metadata": {"total_size": 128}, "weight_map": places})
    (SEEDS / "sharded" / "model.safetensors.index.json").write_text(listed)
    prefix = "base_model.model.layer"
    factors = {
        f"{prefix}.lora_A.weight": torch.randn(2, 4, generator=g),
        f"{prefix}.lora_B.weight": torch.randn(6, 2, generator=g),
    }
    save_file(factors, SEEDS / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {}, "alpha_pattern": {}}
    config |= {"use_rslora": False, "fan_in_fan_out": False, "use_dora": False, "init_lora_weights": True}
    config |= {"bias": "none", "target_modules": ["layer"], "modules_to_save": None, "task_type": "CAUSAL_LM"}
    (SEEDS / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    work = SEEDS / "work"
    work.mkdir()
    for number, model in enumerate(models):
        save_file(model, work / f"{number}.safetensors")
    words = [
        f"base={SEEDS / 'model.safetensors'}",
        f"models=[{work}/0.safetensors,{work}/1.safetensors]",
        "method=tsv_c",
    ]
    run(parse([*words, f"out={SEEDS / 'merged'}"]))
    for other in [work, *(path for path in (SEEDS / "merged").iterdir() if not path.name.startswith("merged"))]:
        shutil.rmtree(other) if other.is_dir() else other.unlink()
    write_run(SEEDS / "good", results(tasks=["cars", "digits"], accuracy=(0.9, 0.8), curve={0.5: 0.7, 1.0: 0.8}))
    write_analysis(
        analyze(base, {str(number): model for number, model in enumerate(models)}), [], SEEDS / "analysis", "toy"
    )
    for path in (SEEDS / "analysis").rglob("*.*"):
        if path.suffix in (".svg", ".png"):
            path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        elif path.name != "analysis.json" and path.is_file():
            path.unlink()


if __name__ == "__main__":
    write_seeds()
