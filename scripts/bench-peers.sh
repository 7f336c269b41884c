#!/usr/bin/env bash
# pare beside llama.cpp on the same files, the same threads, in one run. llama.cpp is built natively from the source
# package llama-cpp-python into the cache folder ($PARE_CACHE, else ~/.cache/pare), never into the project.
#
#   scripts/bench-peers.sh [BUILD]      SECTIONS, MODELS, ENCODINGS, THREADS, REPS in the environment: see bench-peers.py
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
cache="${PARE_CACHE:-$HOME/.cache/pare}"
version=0.3.36
bin="$cache/peers/llama.cpp-$version/bin"

if [ ! -x "$bin/llama-batched-bench" ]; then
  command -v g++ >/dev/null || { echo "bench-peers: g++ is not there (apt-get install g++)" >&2; exit 1; }
  work="$cache/peers/source-$version"
  mkdir -p "$work"
  python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$work" "llama-cpp-python==$version" >&2
  tar xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
  cmake -S "$work"/llama_cpp_python-*/vendor/llama.cpp -B "$(dirname "$bin")" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF >/dev/null
  ninja -C "$(dirname "$bin")" llama-bench llama-batched-bench llama-perplexity llama-quantize >/dev/null
fi

exec python3 scripts/bench-peers.py "$build" "$bin"
