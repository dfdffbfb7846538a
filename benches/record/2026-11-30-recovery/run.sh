#!/usr/bin/env bash
# A pretrained model through every step of recovery, at several shares: nats per token on held-out texts, bytes, tokens a second.
#
#   run.sh BLAST MODEL TEXT HELD_OUT OUT
#
# BLAST     the program, `cargo build --release -p burn-blast-cli`
# MODEL     folder or GGUF file of a dense model
# TEXT      text to train on
# HELD_OUT  folder of texts that are not in it; each is scored by itself
# OUT       folder for models and results.jsonl; a row that is there is not made again
#
# STEPS, CONTEXT and SHARES may be set: steps of distillation (1024 tokens each), tokens of a sequence, shares removed.
set -euo pipefail
blast=$1 model=$2 text=$3 held_out=$4 out=$5
steps=${STEPS:-30} context=${CONTEXT:-256} shares=${SHARES:-0.3 0.5 0.7 0.9}
mkdir -p "$out"
touch "$out/results.jsonl"

# Makes a model by a command, and measures it: `row NAME SHARE command ...`
row() {
  local name=$1 share=$2 folder="$out/$1-$2" seconds
  shift 2
  if grep -q "\"row\": \"$name\", \"share\": $share," "$out/results.jsonl"; then return; fi
  if [ "$name" = dense ]; then folder=$model; fi
  seconds=$(date +%s)
  if [ ! -e "$folder" ]; then "$@"; fi
  seconds=$(($(date +%s) - seconds))
  local nats="{" file
  for file in "$held_out"/*; do
    nats+="\"$(basename "$file" .txt)\": $("$blast" perplexity "$folder" --corpus "$file" --window 512 --stride 256 --json --quiet |
      python3 -c 'import json,sys; print(json.load(sys.stdin)["nats_per_token"])'), "
  done
  nats="${nats%, }}"
  local speed=() options
  for options in "--dtype f32" "--int8"; do
    # shellcheck disable=SC2086
    speed+=("$("$blast" bench "$folder" $options --decode 64 --rounds 3 --json)")
  done
  python3 - "$name" "$share" "$nats" "$seconds" "${speed[@]}" >> "$out/results.jsonl" << 'PY'
import json, sys
name, share, nats, seconds, f32, int8 = sys.argv[1:]
print(json.dumps({"row": name, "share": float(share) if "." in share else int(share), "nats": json.loads(nats), "seconds": int(seconds), "f32": json.loads(f32), "int8": json.loads(int8)}))
PY
  tail -n 1 "$out/results.jsonl" | cut -c 1-160
}

train="--corpus $text --teacher $model --next-token 0 --only-mlps --keep-pattern --weight-decay 0 --eval-every 1000 --evaluated 8 --context $context --quiet"
row dense 0
for share in $shares; do
  one_shot="$blast one-shot $model"
  row magnitude "$share" $one_shot "$out/magnitude-$share" --method magnitude --sparsity "$share" --quiet
  row wanda-corrected "$share" $one_shot "$out/wanda-corrected-$share" --method wanda-corrected --sparsity "$share" --corpus "$text" --quiet
  row cut "$share" $one_shot "$out/cut-$share" --method taylor --sparsity "$share" --corpus "$text" --sequences 10 --context 512 --quiet
  row reconstruct "$share" "$blast" fine-tune "$out/cut-$share" "$out/reconstruct-$share" $train --divergence 0 --mlps 1 \
    --steps 160 --batch 1 --lr 1e-3 --warm-up 10
  row distil "$share" "$blast" fine-tune "$out/reconstruct-$share" "$out/distil-$share" $train \
    --steps "$steps" --batch 2 --accumulate 2 --lr 5e-4 --warm-up 5
done
