#!/usr/bin/env bash
# clang-tidy over all sources that the build folder compiled, two at a time per core.
set -euo pipefail
build=${1:-build}
git ls-files 'src/*.c' 'cli/*.c' | grep -vE '_(avx512|amx)\.c$' |
  xargs -P "$(nproc)" -n 4 clang-tidy -p "$build" --quiet 2>&1 | grep -vE 'warnings generated|Suppressed|Use -header-filter|^$' || true
test "${PIPESTATUS[1]}" -eq 0
