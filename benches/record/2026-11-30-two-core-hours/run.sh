#!/usr/bin/env bash
# A pretrained model with half of its MLPs removed, brought back in two hours of one core.
#
#   run.sh BLAST MODEL TEXT HELD_OUT OUT
#
# BLAST     the program, `cargo build --release -p burn-blast-cli`
# MODEL     folder or GGUF file of a dense model
# TEXT      folder of texts to train on
# HELD_OUT  folder of texts that are not in it; each is scored by itself
# OUT       folder for the models and results.jsonl
#
# STEPS may be set: steps of distillation, 1024 tokens each. A run that was interrupted goes on where it was.
set -euo pipefail
blast=$1 model=$2 text=$3 held_out=$4 out=$5
mkdir -p "$out"
train="--corpus $text --teacher $model --next-token 0 --only-mlps --keep-pattern --weight-decay 0 --evaluated 8 --context 256"
resume() { if [ -e "$1.run" ]; then echo --resume; fi; }
# shellcheck disable=SC2046,SC2086
{
  [ -e "$out/cut" ] ||
    "$blast" one-shot "$model" "$out/cut" --method taylor --sparsity 0.5 --corpus "$text" --sequences 10 --context 512
  [ -e "$out/reconstruct" ] ||
    "$blast" fine-tune "$out/cut" "$out/reconstruct" $train --divergence 0 --mlps 1 --steps 160 --batch 1 --lr 1e-3 --warm-up 10 \
      --eval-every 1000 $(resume "$out/reconstruct")
  [ -e "$out/distil" ] ||
    "$blast" fine-tune "$out/reconstruct" "$out/distil" $train --steps "${STEPS:-850}" --batch 2 --accumulate 2 --lr 5e-4 --warm-up 20 \
      --eval-every 100 --save-every 50 --bf16-products $(resume "$out/distil")
}
: > "$out/results.jsonl"
for row in dense cut reconstruct distil; do
  folder=$out/$row
  if [ "$row" = dense ]; then folder=$model; fi
  nats="{"
  for file in "$held_out"/*; do
    nats+="\"$(basename "$file" .txt)\": $("$blast" perplexity "$folder" --corpus "$file" --window 512 --stride 256 --json --quiet |
      python3 -c 'import json,sys; print(json.load(sys.stdin)["nats_per_token"])'), "
  done
  echo "{\"row\": \"$row\", \"nats\": ${nats%, }}}" >> "$out/results.jsonl"
done
cat "$out/results.jsonl"
