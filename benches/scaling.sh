#!/usr/bin/env bash
# Measures how a step scales with the number of cores: AdamW on f32 and bf16, beside the memory
# limit, and beside torch's fused AdamW if Python has torch and fused_adam. For a machine with many
# cores; each number of cores runs in turn, bound to the first cores. Needs taskset.
#
#     benches/scaling.sh [CORES...]    default: 1 2 4 8 16, as far as there are so many
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release -p fused-adam-throughput
program=${CARGO_TARGET_DIR:-target}/release/fused-adam-throughput
available=$(nproc)
counts=("$@")
[ ${#counts[@]} -gt 0 ] || counts=(1 2 4 8 16)

for cores in "${counts[@]}"; do
  if [ "$cores" -gt "$available" ]; then
    echo "skipped: $cores cores, this machine has $available"
    continue
  fi
  on=(taskset --cpu-list "0-$((cores - 1))")
  for type in f32 bf16; do
    for elements in $((1 << 20)) $((1 << 26)); do
      echo "=== $cores cores, $type, $elements elements"
      "${on[@]}" "$program" --elements "$elements" --elements-type "$type" --backend native
    done
  done
  if python3 -c "import torch, fused_adam" 2> /dev/null; then
    echo "=== $cores cores, beside torch"
    OMP_NUM_THREADS=$cores "${on[@]}" python3 bindings/python/examples/compare.py
  else
    echo "skipped: the comparison with torch, which needs torch and fused_adam"
  fi
done
