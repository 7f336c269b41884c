#!/usr/bin/env bash
# Do other programs load what pare writes? scripts/interop/interop.py says what is tried. Its Python environment (torch, transformers,
# compressed-tensors, peft) is made on demand in the cache folder ($PARE_CACHE, else ~/.cache/pare), about 2 GB; INTEROP_PYTHON=PROGRAM is
# one of yours. llama.cpp is the one that scripts/bench-peers.sh builds, left out where there is none.
#
#   scripts/interop/interop.sh [BUILD]
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build}
cache="${PARE_CACHE:-$HOME/.cache/pare}"
python=${INTEROP_PYTHON:-$cache/interop/bin/python}
if [ ! -x "$(command -v "$python")" ]; then
  echo "interop: making the Python environment in $cache/interop" >&2
  python3 -m venv "$cache/interop"
  "$cache/interop/bin/pip" install --quiet --disable-pip-version-check torch transformers accelerate compressed-tensors peft safetensors numpy >&2
fi
scripts/models.sh >/dev/null
text=$(scripts/text.sh)
work=$(mktemp -d "${TMPDIR:-/tmp}/pare-interop-XXXXXX")
trap 'rm -rf "$work"' EXIT
${CC:-cc} -O2 scripts/interop/logits.c -Iinclude "$build/libpare.a" $(pkg-config --libs jansson libpcre2-8 libutf8proc sqlite3) \
  $(sed -n 's/^Libs.private: //p' "$build/pare.pc") -o "$work/logits-tool"
llama=$(ls "$cache"/peers/llama.cpp-*/bin/llama-perplexity 2>/dev/null | tail -1 || true)
"$python" scripts/interop/interop.py "$build" "$cache/models/smollm2.gguf" "$text" "$work" ${llama:+"$llama"}
