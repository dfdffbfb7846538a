#!/usr/bin/env bash
# All measurements on an NVIDIA GPU: correctness first, then speed beside other libraries.
#
#   benches/gpu.sh OUT                 build, check and measure; results into the new folder OUT
#   benches/gpu.sh --build DIR         only build, into the new folder DIR, for a machine without Rust
#   benches/gpu.sh --programs DIR OUT  check and measure with the programs in DIR
#   benches/gpu.sh --quick ...         fewer problems, a few minutes
#
# Needs the CUDA toolkit (CUDA_PATH if it is not in the usual place) and Python 3 with torch (CUDA) and triton (PYTHON
# names another interpreter). CARGO_ARGS is passed to cargo before its command. Nothing is timed unless all checks pass.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
python="${PYTHON:-python3}"
programs="" out="" build_only="" quick=""

usage() { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case "$1" in
    --build) [ $# -ge 2 ] || usage; build_only="$2"; shift 2 ;;
    --programs) [ $# -ge 2 ] || usage; programs="$(cd "$2" && pwd)"; shift 2 ;;
    --quick) quick=1; shift ;;
    -*) usage ;;
    *) [ -z "$out" ] || usage; out="$1"; shift ;;
  esac
done
[ -n "$build_only$out" ] || usage

new_folder() { mkdir -p "$(dirname "$1")" && mkdir "$1" || { echo "$1 exists: name a new folder" >&2; exit 1; }; }

# tests DIR PREFIX FEATURES: the tests of the kernels on a device, which they read from BURN_BLAST_DEVICE.
tests() {
  local into="$1" prefix="$2" features="$3"
  # shellcheck disable=SC2086
  (cd "$here/.." && cargo ${CARGO_ARGS:-} test --release --no-run -p burn-blast-kernels --tests \
    --features "$features" --message-format json) |
    "$python" -c 'import json, shutil, sys
for line in map(json.loads, sys.stdin):
    if line.get("executable") and line["target"]["name"].startswith("cube"):
        shutil.copy(line["executable"], f"{sys.argv[1]}/{sys.argv[2]}-" + line["target"]["name"])' "$into" "$prefix"
  ls "$into/$prefix"-* >/dev/null
}

# The benchmark, the tests, and the tests once more with a page of memory for each buffer: otherwise many share one. A sanitizer
# sees an access beyond a page, which begins where a buffer does but may be longer.
build() {
  # shellcheck disable=SC2086
  (cd "$here/.." && cargo ${CARGO_ARGS:-} build --release -p blast-bench --no-default-features --features cuda)
  cp "${CARGO_TARGET_DIR:-$here/../target}/release/blast-bench" "$1/"
  tests "$1" test cube,cubecl/cuda,cubecl/cuda-cpp
  tests "$1" sanitize cube,cubecl/cuda,cubecl/cuda-cpp,cubecl/exclusive-memory-only
  # shellcheck disable=SC2086
  (cd "$here/.." && cargo ${CARGO_ARGS:-} build --release -p blast-abi)
  cp "${CARGO_TARGET_DIR:-$here/../target}/release/libblast_abi.so" "$1/"
}

if [ -n "$build_only" ]; then
  new_folder "$build_only"
  build "$build_only"
  exit
fi

new_folder "$out"
out="$(cd "$out" && pwd)"
if [ -z "$programs" ]; then
  programs="$out/programs"
  mkdir "$programs"
  build "$programs"
fi
for program in blast-bench test-cube sanitize-cube libblast_abi.so; do
  [ -e "$programs/$program" ] || { echo "$programs has no $program: build it anew with --build" >&2; exit 1; }
done

step() { printf '\n== %s\n' "$*"; }
{ date -u +%F; nvidia-smi; nvidia-smi -q -d CLOCK,POWER; } > "$out/machine.txt"

step "Every kernel against the f64 oracle"
export BURN_BLAST_DEVICE=cuda
for test in "$programs"/test-*; do
  "$test" --test-threads 1 2>&1 | tee "$out/$(basename "$test").txt"
done
BURN_BLAST_TF32=1 "$programs/test-cube" --test-threads 1 --skip gate:: 2>&1 | tee "$out/test-cube-tf32.txt"

step "Memory errors and races, on one problem of each kind of kernel"
if command -v compute-sanitizer >/dev/null; then
  for tool in "memcheck --padding 4096" racecheck synccheck; do
    log="$out/${tool%% *}.txt"
    # shellcheck disable=SC2086
    compute-sanitizer --tool $tool --error-exitcode 1 "$programs/sanitize-cube" --test-threads 1 --nocapture \
      one_problem_of_each_kind integers_with gate_and_up_in_one_launch one_full_column > "$log" 2>&1 || { tail -40 "$log"; exit 1; }
    if grep -q SKIPPED "$log" || ! grep -Eq 'test result: ok. [1-9]' "$log"; then
      echo "$tool did not look at every test: see $log" >&2
      exit 1
    fi
  done
else
  echo "SKIPPED: there is no compute-sanitizer on this machine" | tee "$out/sanitizer.txt"
fi

"$python" "$here/peers/windows.py"

step "Limits of the device"
"$python" "$here/peers/gpu_probe.py" | tee "$out/probe.jsonl"
if command -v nvcc >/dev/null && nvidia-smi --query-gpu=compute_cap --format=csv,noheader | grep -q '^9'; then
  nvcc -arch=sm_90a -o "$out/wgmma_probe" "$here/peers/wgmma_probe.cu"
  "$out/wgmma_probe" | tee "$out/wgmma.txt" || echo "no choice of the offsets is right: see above"
  rm "$out/wgmma_probe"
else
  echo "SKIPPED: the probe of wgmma needs nvcc and compute capability 9.0" | tee "$out/wgmma.txt"
fi

# Hosts of such GPUs often have AMX, which only one of the recorded machines has.
step "AMX on the host"
if grep -q amx_bf16 /proc/cpuinfo; then
  BLAST_ABI="$programs/libblast_abi.so" "$python" "$here/peers/cpu_peers.py" --plugin "$here/peers/blast.py" --threads 1 \
    --kn 2048x8192 --m 256 --block 64 --sparsity 0.9 --ops fwd --rounds 9 > "$out/amx.jsonl"
  "$python" "$here/peers/table.py" < "$out/amx.jsonl" | tee "$out/amx.md"
else
  echo "SKIPPED: the processor has no AMX for bf16" | tee "$out/amx.md"
fi

# Our kernels and the other libraries alternate, three times, so that a drifting clock affects both.
models="llama-3.1-8b,llama-3.1-405b" rows="1,16,256,2048" sparsity="50,70,80,90,95" laps=3 limit=240
if [ -n "$quick" ]; then
  models="llama-3.1-8b" rows="1,2048" sparsity="90,95" laps=1 limit=60
fi
for lap in $(seq "$laps"); do
  step "Products and gated blocks, lap $lap of $laps"
  "$programs/blast-bench" run --backend cuda --dtype bf16 --model "$models" --rows "$rows" --sparsity "$sparsity" \
    --block 64,128 --verb fwd,dx,dw,gated-mlp,step --cold=false \
    --clock device --time-limit "$limit" --out "$out/blast-$lap.jsonl"
  "$python" "$here/peers/gpu_peers.py" --dtype bf16 --models "$models" --rows "$rows" --sparsity "$sparsity" \
    --block 64,128 > "$out/peers-$lap.jsonl"
  step "Decoding with cold weights, lap $lap of $laps"
  "$programs/blast-bench" run --backend cuda --dtype bf16 --model "$models" --rows 1,16 --sparsity "$sparsity" \
    --block 64,128 --verb fwd --cold --clock device --time-limit 60 --out "$out/blast-cold-$lap.jsonl"
  "$python" "$here/peers/gpu_peers.py" --dtype bf16 --models "$models" --rows 1,16 --sparsity "$sparsity" \
    --block 64,128 --verbs forward --cold > "$out/peers-cold-$lap.jsonl"
done

"$python" "$here/peers/gpu_table.py" "$out"/*-[0-9].jsonl | tee "$out/table.md"
