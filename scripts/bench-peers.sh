#!/usr/bin/env bash
# pare beside llama.cpp on the same files, the same threads, in one run. llama.cpp is built natively from the source
# package llama-cpp-python into the cache folder ($PARE_CACHE, else ~/.cache/pare), never into the project.
#
#   scripts/bench-peers.sh [BUILD]      ENCODINGS="q4_0 q8_0 ..." REPS=3 in the environment
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
cache="${PARE_CACHE:-$HOME/.cache/pare}"
version=0.3.36
reps=${REPS:-3}
bin="$cache/peers/llama.cpp-$version/bin"

if [ ! -x "$bin/llama-bench" ]; then
  command -v g++ >/dev/null || { echo "bench-peers: g++ is not there (apt-get install g++)" >&2; exit 1; }
  work="$cache/peers/source-$version"
  mkdir -p "$work"
  python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$work" "llama-cpp-python==$version" >&2
  tar xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
  cmake -S "$work"/llama_cpp_python-*/vendor/llama.cpp -B "$(dirname "$bin")" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF >/dev/null
  ninja -C "$(dirname "$bin")" llama-bench >/dev/null
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/pare-peers-XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "| model | encoding | threads | prefill 512: pare | llama.cpp | ratio | decode 128: pare | llama.cpp | ratio |"
echo "|---|---|---:|---:|---:|---:|---:|---:|---:|"
for name in ${MODELS:-smollm2 gemma3}; do
  model=$(scripts/models.sh "$name" | tail -1)
  for encoding in ${ENCODINGS:-q4_0 q4_1 q5_0 q8_0 q4_k_m q6_k bf16}; do
    file="$work/$name-$encoding.gguf"
    "$build/pare" compress "$model" -o "$file" -r "$encoding" --quiet >/dev/null
    for threads in ${THREADS:-1 2}; do
      "$build/pare" bench "$file" --threads "$threads" --pp 512 --tg 128 --reps "$reps" --quiet --json >"$work/pare.json"
      "$bin/llama-bench" -m "$file" -t "$threads" -p 512 -n 128 -r "$reps" -o json >"$work/llama.json" 2>/dev/null
      python3 - "$work" "$name" "$encoding" "$threads" <<'PY'
import json, sys
work, name, encoding, threads = sys.argv[1:]
ours = {r["what"]: r["tokens_per_s"] for r in json.load(open(work + "/pare.json"))["rows"]}
peer = {("prefill" if r["n_prompt"] else "decode"): r["avg_ts"] for r in json.load(open(work + "/llama.json"))}
cells = [f"{ours[k]:.1f} | {peer[k]:.1f} | {ours[k] / peer[k]:.2f}" for k in ("prefill", "decode")]
print(f"| {name} | {encoding} | {threads} | {cells[0]} | {cells[1]} |")
PY
    done
    rm -f "$file"
  done
done
