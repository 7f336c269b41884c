#!/usr/bin/env bash
# Benchmarks: single kernels against the machine's limits, then whole models. Prints Markdown for docs/benchmarks.md.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
echo "## $(uname -m), $("$build/pare" info --cpu --json | python3 -c 'import json,sys; m=json.load(sys.stdin)["machine"]; print(m["cpu"], m["isa"])'), $(date +%F)"
"$build/pare" info --cpu --measure
for threads in 1 2; do
  echo "### pare bench --kernels --threads $threads"
  "$build/pare" bench --kernels --threads $threads --quiet
done
for program in bench_encode bench_encode_error bench_training; do
  echo "### $program"
  "$build/bench/$program"
done
for name in smollm2 gemma3; do
  model=$(scripts/models.sh $name | tail -1) || continue
  echo "### bench_tokenizer $name"
  "$build/bench/bench_tokenizer" "$model"
  for threads in 1 2; do
    echo "### pare bench $name --threads $threads"
    "$build/pare" bench "$model" --threads $threads
  done
done
