#!/usr/bin/env bash
# Products in the matrix unit beside PyTorch (oneDNN, FBGEMM), and attention by blocks beside the commit before it. One thread.
#
#   run.sh BEFORE AFTER ABI MODEL SPARSE TEXT OUT
#
# BEFORE  the program of commit df5b306, `cargo build --release -p burn-blast-cli`; AFTER  of a later one
# ABI     libblast_abi.so, `cargo build --release -p blast-abi`
# MODEL   folder of the dense model; SPARSE  folder of one with 70 % of its MLPs removed
# TEXT    file to train on
# OUT     folder for products.jsonl and model.txt
set -euo pipefail
before=$1 after=$2 model=$4 sparse=$5 text=$6 out=$7
peers=$(dirname "$(realpath "$0")")/../../peers
export BLAST_ABI=$3 RAYON_NUM_THREADS=1
python3 "$peers/cpu_peers.py" --plugin "$peers/blast.py" --threads 1 --kn 2048x8192 --m 256 --block 32,64,128 --sparsity 0.5,0.9 \
  --ops fwd,dx,dw --peers blast,torch-dense,torch-onednn --rounds 9 --budget 30 > "$out/products.jsonl"
train="--corpus $text --teacher $model --next-token 0 --only-mlps --keep-pattern --weight-decay 0 --evaluated 1 --lr 5e-4 --warm-up 20 \
  --eval-every 1000 --bf16-products"
for _ in 1 2; do
  for program in "$before" "$after"; do
    for tokens in 256 1024; do
      "$program" bench "$model" --dtype f32 --bf16-products --prefill "$tokens" --decode 8 --rounds 3 --json
    done
    for shape in "--context 256 --batch 2 --accumulate 2" "--context 1024 --batch 1 --accumulate 1"; do
      for steps in 1 4; do
        rm -rf "$out/trained" "$out/trained.run"
        # shellcheck disable=SC2086
        /usr/bin/time -f "$shape, $steps steps: %e s, %M KB" "$program" fine-tune "$sparse" "$out/trained" $train $shape --steps "$steps" --quiet
      done
    done
  done
done 2>&1 | tee "$out/model.txt"
