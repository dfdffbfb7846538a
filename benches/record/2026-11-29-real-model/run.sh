#!/usr/bin/env bash
# Tokens a second of SmolLM2-135M, dense and with MLP blocks removed: blast, PyTorch and llama.cpp, one after the other in each
# of several rounds on one machine. It needs
#   blast                 cargo build --release -p burn-blast-cli
#   MODEL                 the folder of the model
#   GGUF                  files for llama.cpp, for example its Q8_0 and Q4_1
#   llama_cpp.mjs         a script that prints {"prefill_tokens_s": .., "decode_tokens_s": ..} for a file, by node-llama-cpp
# and the Python packages of rivals.py.
set -euo pipefail
blast=$1 model=$2 out=$3
shift 3
here=$(dirname "$0")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for share in 0.5 0.8 0.9; do
  "$blast" sparsify "$model" "$scratch/sparse-$share" --sparsity "$share" --quiet > /dev/null
done
ln -s "$(realpath "$model")" "$scratch/dense"
: > "$out"
for round in 1 2; do
  for name in dense sparse-0.5 sparse-0.8 sparse-0.9; do
    for options in "--dtype f32" "--dtype bf16" "--int8"; do
      "$blast" bench "$scratch/$name" $options --decode 64 --rounds 3 --json |
        python3 -c "import json,sys; print(json.dumps({'engine': 'blast', 'round': $round, 'model': '$name', 'options': '$options', **json.load(sys.stdin)}))" >> "$out"
    done
  done
  python3 "$here/rivals.py" "$model" 2>/dev/null >> "$out"
  for file in "$@"; do
    node "${LLAMA_CPP:-llama_cpp.mjs}" "$file" 2>/dev/null |
      sed "s#^{#{\"engine\": \"llama.cpp\", \"file\": \"$(basename "$file")\", #" >> "$out"
  done
done
