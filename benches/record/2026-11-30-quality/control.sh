#!/usr/bin/env bash
# A dense model of 3.0 million parameters, the block-sparse model made from it, the dense model trained on as long, and a narrow
# dense model of as many parameters as the sparse one, trained as long as both together.
#
#   control.sh BLAST TEXT     in the folder to write to; TEXT is tinyshakespeare.txt
set -euo pipefail
blast=$1
dense="--corpus $2 --batch 12 --steps 3000 --lr 1e-3 --warm-up 100 --eval-every 250 --save-every 250"
on="--corpus $2 --batch 12 --steps 3000 --lr 2e-3 --warm-up 20 --interval 20 --end-fraction 0.4 --growth-fraction 0.2 --block 32
  --eval-every 250 --save-every 250"
# shellcheck disable=SC2086
{
  "$blast" dense dense $dense
  "$blast" dense narrow $dense --hidden 104
  "$blast" fine-tune dense sparse-90 --sparsity 0.90 $on --teacher dense
  "$blast" fine-tune narrow narrow-on --sparsity 0 $on --teacher dense
  "$blast" fine-tune dense dense-on --sparsity 0 $on
  "$blast" measure dense dense-on sparse-90 narrow narrow-on --corpus "$2" --batch 12 --rounds 7 --json |
    python3 -c "import json,sys; [print(json.dumps(one)) for one in json.load(sys.stdin)]" > control.jsonl
}
