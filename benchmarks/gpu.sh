#!/usr/bin/env bash
# What needs a GPU: the tests, then the benchmarks, about six minutes on an H100; results go to a folder of five files.
#     bash benchmarks/gpu.sh FOLDER
set -uo pipefail
out=${1:?give a folder for the results}
mkdir -p "$out"
here=$(dirname "$0")
merge() { name=$1 && shift && python "$here/gpu_merge.py" "$@" --out "$out/$name.json" | grep -vE '^ *(\[|\]|[0-9.]+,?$)'; }
OMP_NUM_THREADS=2 python -m pytest -q -m gpu "$here/../tests" 2>&1 | tee "$out/tests.log"
merge gpu_vit_b_32 --models vit_b_32:8 --turns 2 --more textbook error timeline files resident
merge gpu_large --models vit_l_14:20 llama:4:6 --turns 1 --more textbook
merge gpu_methods --models vit_b_32:8:3 vit_b_32:20:3 --methods tsv_m iso_reg white_reg ties task_arithmetic --turns 2 --more
merge gpu_llama_8b --models llama_8b:4:1 --turns 1 --rank-fraction 0.03125 --more textbook
python "$here/evaluation.py" --device cuda:0 --tasks 1 --images 2048 --batch 1024 --repeat 3 --out "$out/gpu_evaluation.json"
