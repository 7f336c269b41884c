#!/usr/bin/env bash
# Installs the Debian packages that pare needs to build, test and run its demo. Does nothing when all are there.
set -euo pipefail

packages=(
  gcc clang cmake ninja-build pkg-config make          # build
  libc6-dev libclang-rt-14-dev                         # sanitizers, libFuzzer
  libjansson-dev libpcre2-dev libutf8proc-dev          # JSON, regular expressions, Unicode
  libsqlite3-dev                                       # records of runs
  libopenmpi-dev openmpi-bin                           # ranks: training, calibration and sweeps by several processes
  libcmocka-dev libsimde-dev                           # tests; AVX-512 kernels tested on any machine
  clang-format clang-tidy                              # style
  python3 python3-pip                                  # fetches the demo models' packages
)
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "install-deps: this is not a Debian system; install by hand: ${missing[*]}" >&2
  exit 1
fi
sudo=""
[ "$(id -u)" -eq 0 ] || sudo="sudo"
echo "install-deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -q >/dev/null
$sudo apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
