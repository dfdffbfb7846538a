#!/usr/bin/env bash
# Decoding on a CPU: single rows of products beside PyTorch, and SmolLM2-135M as a whole beside PyTorch and llama.cpp. Products in
# 8-bit integers beside those of oneDNN and FBGEMM. One thread; engines take turns.
#
#   run.sh BLAST BEFORE ABI MODEL HALF OUT [GGUF ...]
#
# BLAST   the program, `cargo build --release -p burn-blast-cli`; BEFORE  that of commit bd6b11c
# ABI     libblast_abi.so, `cargo build --release -p blast-abi`
# MODEL   folder of the dense model; HALF  folder of one with half of its MLPs removed (`blast one-shot --sparsity 0.5`)
# OUT     folder for cold.jsonl, int8.jsonl and model.jsonl
# GGUF    files for llama.cpp, by LLAMA_CPP, a script that prints {"prefill_tokens_s": .., "decode_tokens_s": ..} a round
set -euo pipefail
blast=$1 before=$2 model=$4 half=$5 out=$6
here=$(dirname "$(realpath "$0")")
peers=$here/../../peers
export BLAST_ABI=$3 RAYON_NUM_THREADS=1
shift 6
products() {
  python3 "$peers/cpu_peers.py" --plugin "$peers/blast.py" --threads 1 --kn 2048x8192 --ops fwd "$@"
}
products --m 1 --block 32,64,128 --sparsity 0.5,0.9 --peers blast,torch-dense --flush 256 --warm 0 --rounds 31 --budget 40 > "$out/cold.jsonl"
products --m 256 --block 32,64,128 --sparsity 0.5,0.9 --peers blast,torch-onednn,torch-fbgemm --rounds 9 --budget 40 > "$out/int8.jsonl"
bench() {
  program=$1 engine=$2 folder=$3 name=$4 options=$5
  # shellcheck disable=SC2086
  "$program" bench "$folder" $options --decode 64 --rounds 3 --json |
    python3 -c "import json,sys; print(json.dumps({'engine': '$engine', 'model': '$name', 'options': '$options', **json.load(sys.stdin)}))"
}
: > "$out/model.jsonl"
for _ in 1 2; do
  for options in "--dtype f32" "--dtype bf16" "--int8" "--int8 --int8-products"; do
    bench "$blast" blast "$model" dense "$options" >> "$out/model.jsonl"
    bench "$before" before "$model" dense "$options" >> "$out/model.jsonl"
    bench "$blast" blast "$half" half "$options" >> "$out/model.jsonl"
  done
  python3 "$here/../2026-11-29-real-model/rivals.py" "$model" 1 2> /dev/null >> "$out/model.jsonl"
  for file in "$@"; do
    node "${LLAMA_CPP:-llama_cpp.mjs}" "$file" 1 2> /dev/null | tail -n 5 |
      sed "s#^{#{\"engine\": \"llama.cpp\", \"file\": \"$(basename "$file")\", #" >> "$out/model.jsonl"
  done
done
