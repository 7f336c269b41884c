#!/usr/bin/env bash
# Builds every fuzz target with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer and runs each for
# SECONDS (default 60), JOBS (default: one a core) at a time, from inputs that the target itself makes. A crash leaves
# its input in build-fuzz/found.
# SEED (default 1) fixes the order of mutations, so that a gate repeats itself; 0 draws a new one each time.
set -euo pipefail
seconds=${1:-60}
seed=${2:-1}
build=build-fuzz
CC=clang cmake -S . -B $build -G Ninja -DPARE_SANITIZE=ON -DPARE_FUZZ=ON -DPARE_TESTS=OFF -DPARE_BENCH=OFF >/dev/null
ninja -C $build
mkdir -p $build/found
run() {
  local target=$1 name
  name=$(basename "$target")
  mkdir -p "$build/corpus/$name"
  "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -seed="$seed" -reload=0 -artifact_prefix="$build/found/$name-" \
    -print_final_stats=1 "$build/corpus/$name" >"$build/$name.log" 2>&1 ||
    { tail -40 "$build/$name.log"; echo "fuzz: $name FAILED"; return 1; }
  echo "fuzz: $name: $(grep -o 'stat::number_of_executed_units: *[0-9]*' "$build/$name.log" | grep -o '[0-9]*$') runs in $seconds s, no finding"
}
export -f run
export build seconds seed
printf '%s\n' $build/fuzz/fuzz_* | xargs -P "${JOBS:-$(nproc)}" -I{} bash -c 'run {}'
