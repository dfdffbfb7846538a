#!/usr/bin/env bash
# As 2026-11-30-two-core-hours/run.sh, with 70 % removed and 340 steps of distillation; the same arguments.
set -euo pipefail
there=$(dirname "$(realpath "$0")")/../2026-11-30-two-core-hours/run.sh
STEPS="${STEPS:-340}" bash <(sed 's/--sparsity 0\.5/--sparsity 0.7/' "$there") "$@"
