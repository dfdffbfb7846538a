#!/usr/bin/env bash
# Decoding with 4-bit weights on a CPU: single rows of products, and a model as a whole beside llama.cpp. One thread; engines take turns.
#
#   run.sh BLAST ABI MODEL HALF TEXT OUT [GGUF ...]
#
# BLAST  the program, `cargo build --release -p burn-blast-cli`
# ABI    libblast_abi.so, `cargo build --release -p blast-abi`
# MODEL  folder of the dense model; HALF  folder of one with half of its MLPs removed (`blast sparsify --sparsity 0.5 --block 32`)
# TEXT   held-out text to score
# OUT    folder for cold.jsonl, model.jsonl and loss.jsonl
# GGUF   files for llama.cpp, by LLAMA_CPP, a script that prints {"prefill_tokens_s": .., "decode_tokens_s": ..} a round
set -euo pipefail
blast=$1 model=$3 half=$4 text=$5 out=$6
peers=$(dirname "$(realpath "$0")")/../../peers
export BLAST_ABI=$2 RAYON_NUM_THREADS=1
shift 6
"${PYTHON:-python3}" "$peers/cpu_peers.py" --plugin "$peers/blast.py" --threads 1 --kn 2048x8192 --ops fwd --m 1 --block 32,64,128 \
  --sparsity 0.5,0.9 --peers blast-int,blast-bf16w,blast --flush 256 --warm 0 --rounds 31 --budget 40 > "$out/cold.jsonl"
bench() {
  # shellcheck disable=SC2086
  "$blast" bench "$2" $3 --decode 64 --rounds 3 --json |
    python3 -c "import json,sys; print(json.dumps({'engine': 'blast', 'model': '$1', 'options': '$3', **json.load(sys.stdin)}))"
}
: > "$out/model.jsonl"
for _ in 1 2; do
  for options in "--dtype bf16" "--int8" "--int4" "--int4 --bf16-products"; do
    bench dense "$model" "$options" >> "$out/model.jsonl"
    bench half "$half" "$options" >> "$out/model.jsonl"
  done
  for file in "$@"; do
    node "${LLAMA_CPP:-llama_cpp.mjs}" "$file" 1 2> /dev/null | tail -n 5 |
      sed "s#^{#{\"engine\": \"llama.cpp\", \"file\": \"$(basename "$file")\", #" >> "$out/model.jsonl"
  done
done
: > "$out/loss.jsonl"
for options in "" "--int8" "--int4"; do
  # shellcheck disable=SC2086
  "$blast" perplexity "$model" $options --corpus "$text" --window 1024 --json --quiet |
    python3 -c "import json,sys; print(json.dumps({'options': '$options', **json.load(sys.stdin)}))" >> "$out/loss.jsonl"
done
