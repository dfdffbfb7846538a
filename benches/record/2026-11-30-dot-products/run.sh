#!/usr/bin/env bash
# Dot products of bf16 and of 8-bit integers: single products beside PyTorch (oneDNN, MKL), and SmolLM2-135M as a whole beside
# PyTorch and llama.cpp. One thread; engines take turns.
#
#   run.sh BLAST ABI MODEL SPARSE OUT [GGUF ...]
#
# BLAST   the program, `cargo build --release -p burn-blast-cli`
# ABI     libblast_abi.so, `cargo build --release -p blast-abi`
# MODEL   folder of the dense model; SPARSE  folder of one with half of its MLPs removed (`blast one-shot`)
# OUT     folder for products.jsonl, cold.jsonl and model.jsonl
# GGUF    files for llama.cpp, by LLAMA_CPP, a script that prints {"prefill_tokens_s": .., "decode_tokens_s": ..} a round
set -euo pipefail
blast=$1 model=$3 sparse=$4 out=$5
here=$(dirname "$(realpath "$0")")
peers=$here/../../peers
export BLAST_ABI=$2 RAYON_NUM_THREADS=1
shift 5
python3 "$peers/cpu_peers.py" --plugin "$peers/blast.py" --threads 1 --kn 2048x8192 --m 256 --block 16,32,64,128 --sparsity 0.5,0.9 \
  --ops fwd,dx,dw --peers blast,torch-dense --rounds 9 --budget 60 > "$out/products.jsonl"
python3 "$peers/cpu_peers.py" --plugin "$peers/blast.py" --threads 1 --kn 2048x8192 --m 1,4,16 --block 32,64 --sparsity 0.9 \
  --ops fwd --peers blast,torch-dense --flush 256 --warm 0 --rounds 21 --budget 60 > "$out/cold.jsonl"
: > "$out/model.jsonl"
for round in 1 2; do
  for folder in "$model" "$sparse"; do
    name=dense
    if [ "$folder" = "$sparse" ]; then name=half; fi
    for options in "--dtype f32" "--dtype f32 --bf16-products" "--dtype bf16" "--int8" "--int8 --int8-products"; do
      # shellcheck disable=SC2086
      "$blast" bench "$folder" $options --decode 64 --rounds 3 --json |
        python3 -c "import json,sys; print(json.dumps({'engine': 'blast', 'round': $round, 'model': '$name', 'options': '$options', **json.load(sys.stdin)}))" >> "$out/model.jsonl"
    done
  done
  python3 "$here/../2026-11-29-real-model/rivals.py" "$model" 1 2> /dev/null >> "$out/model.jsonl"
  for file in "$@"; do
    node "${LLAMA_CPP:-llama_cpp.mjs}" "$file" 1 2> /dev/null | tail -n 5 |
      sed "s#^{#{\"engine\": \"llama.cpp\", \"file\": \"$(basename "$file")\", #" >> "$out/model.jsonl"
  done
done
