#!/usr/bin/env bash
# Installs what compiles CUDA C++ to machine code on a machine without a GPU, and prints where: NVRTC, ptxas,
# nvdisasm and the headers, from the Python packages of their maker (about 200 MB to download, Linux x86-64).
# The folder is BURN_BLAST_TOOLKIT, or one in the user's cache. Run again, it only prints.
set -euo pipefail

folder="${BURN_BLAST_TOOLKIT:-${XDG_CACHE_HOME:-$HOME/.cache}/burn-blast/cuda-toolkit-13.0}"
if [ ! -x "$folder/bin/ptxas" ]; then
  mkdir -p "$(dirname "$folder")"
  fresh="$(mktemp -d "$(dirname "$folder")/.toolkit-XXXXXX")"
  trap 'rm -rf "$fresh"' EXIT
  # The disassembler has no package of 13.0; it reads what older assemblers write.
  python3 -m pip install --quiet --no-deps --target "$fresh" \
    'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-runtime==13.0.*' \
    'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-nvdisasm==13.2.*' >&2
  mv "$fresh/nvidia/cu13" "$folder"
fi
echo "$folder"
