#!/usr/bin/env bash
# What needs a GPU: the tests, then the benchmarks, some minutes on an H100; results go to a folder of seven files.
#     bash benchmarks/gpu.sh FOLDER
set -uo pipefail
out=${1:?give a folder for the results}
mkdir -p "$out"
here=$(dirname "$0") work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
merge() { name=$1 && shift && python "$here/gpu_merge.py" "$@" --out "$out/$name.json" | grep -vE '^ *(\[|\]|[0-9.]+,?$)'; }
sweep() { TSV_EXP_CACHE="$work/$1" python -m tsv_exp.commands.exp "${@:2}" model=tiny tasks=8 device=cuda paths.outputs="$work/outputs-$1" &> "$work/log" || cat "$work/log"; }
OMP_NUM_THREADS=2 python -m pytest -q -m gpu "$here/../tests" 2>&1 | tee "$out/tests.log"
merge gpu_vit_b_32 --models vit_b_32:8 --turns 2 --more textbook error timeline files resident
merge gpu_large --models vit_l_14:20 llama:4:6 --turns 1 --more textbook
merge gpu_methods --models vit_b_32:8:3 vit_b_32:20:3 --methods tsv_m iso_reg white_reg ties task_arithmetic --turns 2 --more
merge gpu_llama_8b --models llama_8b:4:1 --turns 1 --rank-fraction 0.03125 --more textbook
python "$here/evaluation.py" --device cuda:0 --tasks 1 --images 2048 --batch 1024 --repeat 3 --out "$out/gpu_evaluation.json"
sweep 1 method=individual # fine-tunes the checkpoints
cp -r "$work/1" "$work/2"
for jobs in 1 2; do # the same sweep in one process and in two; neither knows an accuracy
    SECONDS=0
    sweep $jobs -m method=tsv_m,iso_reg,white_reg,iso_c,ties,consensus_ta,task_arithmetic,weight_average alpha=grid hydra/launcher=joblib hydra.launcher.n_jobs=$jobs
    echo "8 methods, processes: $jobs, seconds: $SECONDS" | tee -a "$out/gpu_sweep.txt"
done
