#!/usr/bin/env bash
# CushionCache's tables 1, 3 and 4 on one model: perplexity of WikiText-2 test with quantized activations, each row without a
# cushion and with one that was searched, tuned, tuned with the quantization error. What is there is not done again.
#
#   scripts/study-cushion.sh [BUILD]        MODEL (SmolLM2-135M), OUT=folder (study-cushion), WINDOWS (5), SAMPLES (16) of 512 tokens for static
#                                           grids, SEARCH and TUNE (parameters), LAMBDA (0.01), ALPHA (0.8), SCHEMES, COMPUTE (exact) of
#                                         perplexity, TASKS (none) with LIMIT (100)
# The text of the search, of tuning and of grids is WikiText-2 valid (the paper: C4, and train for the grids), that of the perplexity its
# test part, in $PARE_DATA/wikitext-2-raw (else ../shared/data/wikitext-2-raw).
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
scripts/models.sh >/dev/null
model=${MODEL:-${PARE_CACHE:-$HOME/.cache/pare}/models/smollm2.gguf}
out=${OUT:-study-cushion}
data=${PARE_DATA:-../shared/data}/wikitext-2-raw
windows=${WINDOWS:-5} samples=${SAMPLES:-16} alpha=${ALPHA:-0.8} lambda=${LAMBDA:-0.01} compute=${COMPUTE:-exact}
search=${SEARCH:-max_len=4,n=64,texts=3,candidates=64,screen=1} tune=${TUNE:-epochs=2}
schemes=${SCHEMES:-w8a8:per_tensor_static w8a8:per_tensor_dynamic w8a8:per_token w6a6:per_token w4a4:per_token}
[ -d "$data" ] || { echo "study-cushion: no texts in $data (PARE_DATA says where)" >&2; exit 2; }
calib=$data/wiki.valid.raw test=$data/wiki.test.raw
mkdir -p "$out"
export PARE_RECORDS=${PARE_RECORDS:-$out/records.db}

# compress NAME RECIPE [OPTIONS...]
compress() {
  local name=$1 recipe=$2
  shift 2
  [ -d "$out/$name" ] && return
  echo "study-cushion: $name" >&2
  "$build/pare" compress "$model" -o "$out/$name" -r "$recipe" --calib "$calib" --calib-samples "$samples" --calib-ctx 512 "$@"
}

# measure NAME MODEL [OPTIONS...]
measure() {
  local name=$1 of=$2
  shift 2
  [ -f "$out/$name.json" ] && return
  echo "study-cushion: $name" >&2
  "$build/pare" eval "$of" --text "$test" --windows "$windows" --compute "$compute" --json "$@" >"$out/$name.part"
  mv "$out/$name.part" "$out/$name.json"
}

# weights that are codes already would keep them under --act
dense=$out/dense
[ -d "$dense" ] || "$build/pare" compress "$model" -o "$dense" -r f32
found=$out/searched/cushion.safetensors
compress searched "cushioncache:$search,epochs=0"
cushions="none searched tuned tuned_error"
[ -f "$found" ] || { echo "study-cushion: no token lowers the error: there is no cushion to measure" >&2; cushions=none; }
[ "$cushions" = none ] || compress tuned "cushioncache:$search,$tune,lambda=0" --prefix "$found"
[ "$cushions" = none ] || compress tuned_error "cushioncache:$search,$tune,lambda=$lambda" --prefix "$found"

# options of a scheme; "plain": none
choose() {
  options=()
  if [ "$1" != plain ]; then options=(--act "$1"); fi
  if [[ $1 == *static* ]]; then options+=(--calib "$calib" --calib-samples "$samples" --calib-ctx 512); fi
}

for cushion in $cushions; do
  prefix=none
  [ "$cushion" = none ] || prefix=$out/$cushion/cushion.safetensors
  for scheme in plain $schemes; do
    choose "$scheme"
    measure "$scheme.$cushion" "$dense" --prefix "$prefix" "${options[@]}"
  done
  compress "smooth.$cushion" "smoothquant:alpha=$alpha + f32@attn + f32@ffn" --prefix "$prefix"
  for scheme in $schemes; do
    choose "$scheme"
    measure "smooth+$scheme.$cushion" "$out/smooth.$cushion" "${options[@]}"
  done
  for scheme in ${TASKS:+plain w8a8:per_tensor_static w8a8:per_token}; do
    choose "$scheme"
    [ -f "$out/tasks+$scheme.$cushion.json" ] && continue
    echo "study-cushion: tasks+$scheme.$cushion" >&2
    "$build/pare" eval "$dense" --tasks "$TASKS" --limit "${LIMIT:-100}" --prefix "$prefix" "${options[@]}" --compute fast --json >"$out/tasks.part"
    mv "$out/tasks.part" "$out/tasks+$scheme.$cushion.json"
  done
done

python3 - "$out" <<'PYTHON'
import glob, json, os, sys
cushions = ["none", "searched", "tuned", "tuned_error"]
values = {}
for path in glob.glob(os.path.join(sys.argv[1], "*.json")):
    row, cushion = os.path.basename(path)[:-5].rsplit(".", 1)
    with open(path, encoding="utf-8") as f:
        values[row, cushion] = json.load(f)
rows = sorted({row for row, _ in values}, key=lambda row: (row.startswith("tasks"), row.startswith("smooth"), row != "plain", row))
print("| | " + " | ".join(cushions) + " |\n|---|" + "---:|" * len(cushions))
for row in rows:
    cells = []
    for cushion in cushions:
        v = values.get((row, cushion), {})
        if row.startswith("tasks"):
            cells.append(f"{100 * v['tasks_mean']['quoted']:.2f}" if v else "")
        else:
            cells.append(f"{v['perplexity']['ppl']:.3f}" if v else "")
    print(f"| {row} | " + " | ".join(cells) + " |")
PYTHON
