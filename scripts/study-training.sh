#!/usr/bin/env bash
# Sparse training from scratch, every algorithm beside dense: one small language model, the same text, order and steps. Prints a
# table of held-out losses (mean and range over seeds); every run leaves a record, so `pare report` draws the curves. A run that is
# there is not done again, one that was cut off goes on.
#
#   scripts/study-training.sh [BUILD]       OUT=folder (study-training), STEPS (600, a multiple of 40), BATCH (8), CTX (256), LR (2e-3),
#                                           LINEAR (0.1): the factor of that rate in linear layers, SPARSITY (0.8), SEEDS ("0 1 2") for dense and MAIN; the first seed alone for ALGORITHMS
#                                           and, with 2:4, for NM
# LINEAR: with one rate for all tensors, one that suits embeddings is too much for linear layers, and the more so the more inputs they have
# left: the table would order the algorithms by their effective rate (docs/benchmarks.md, Training).
# The text is the books in $PARE_DATA/text (else ../shared/data/text), the tokenizer SmolLM2's first 8192 tokens.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
out=${OUT:-study-training}
text=${PARE_DATA:-../shared/data}/text
steps=${STEPS:-600} batch=${BATCH:-8} ctx=${CTX:-256} lr=${LR:-2e-3} linear=${LINEAR:-0.1} sparsity=${SPARSITY:-0.8}
seeds=${SEEDS:-0 1 2}
main=${MAIN-magnitude_ste magnitude rigl set static_sparse random}
rest=${ALGORITHMS-saliency global_magnitude global_saliency random_ste acdc adam_fisher}
((steps % 40 == 0)) || { echo "study-training: STEPS=$steps: expected a multiple of 40" >&2; exit 2; }
[ -d "$text" ] || { echo "study-training: no books in $text (PARE_DATA says where)" >&2; exit 2; }
scripts/models.sh >/dev/null
mkdir -p "$out"
export PARE_RECORDS=${PARE_RECORDS:-$out/records.db}
every=$((steps / 40)) # masks change from a quarter to three quarters of the training, 20 times

# run NAME SEED [OPTIONS...]
run() {
  local name=$1-$2 seed=$2
  shift 2
  [ -f "$out/$name.json" ] && return
  echo "study-training: $name" >&2
  "$build/pare" train "$out/$name" --arch llama --dim 256 --layers 8 --heads 4 --tokenizer "${PARE_CACHE:-$HOME/.cache/pare}/models/smollm2.gguf" \
    --vocab 8192 --data "$text/*.txt" --steps "$steps" --batch "$batch" --ctx "$ctx" --optim "adamw:lr=$lr" --lr-scale "attn=$linear,ffn=$linear" --seed "$seed" \
    --eval-every $((steps / 6)) --save-every $((steps / 6)) --json "$@" >"$out/$name.part"
  mv "$out/$name.part" "$out/$name.json"
}

spec() {
  case $1 in
    static_sparse) echo "$1:sparsity=$sparsity" ;;
    acdc) echo "$1:sparsity=$sparsity,dense_until=$((10 * every)),sparse_from=$((30 * every)),sparse_steps=$((2 * every)),dense_steps=$((2 * every))" ;;
    *) echo "$1:sparsity=${2:-$sparsity},every=$every" ;;
  esac
}

for seed in $seeds; do
  run dense "$seed"
  for algorithm in $main; do run "$algorithm" "$seed" --sparsity "$(spec "$algorithm")"; done
done
first=${seeds%% *}
for algorithm in $rest; do run "$algorithm" "$first" --sparsity "$(spec "$algorithm")"; done
for algorithm in ${NM-magnitude_ste magnitude}; do run "$algorithm,2:4" "$first" --sparsity "$(spec "$algorithm" 2:4)"; done

python3 - "$out" <<'PYTHON'
import glob, json, os, sys
runs = {}
for path in glob.glob(os.path.join(sys.argv[1], "*.json")):
    name = os.path.basename(path)[:-5].rsplit("-", 1)[0]
    with open(path, encoding="utf-8") as f:  # lines of the log, then the result
        runs.setdefault(name, []).append(json.loads(f.read().splitlines()[-1]))
print("| | held-out loss | range | perplexity | zeros | tokens/s | seeds |\n|---|---:|---:|---:|---:|---:|---:|")
import math
for name, rs in sorted(runs.items(), key=lambda r: sum(x["val_loss"] for x in r[1]) / len(r[1])):
    losses = [r["val_loss"] for r in rs]
    mean = sum(losses) / len(losses)
    print(f"| {name} | {mean:.4f} | {max(losses) - min(losses):.4f} | {math.exp(mean):.2f} | {100 * rs[0]['sparsity']:.1f}% | {rs[0]['tokens_per_s']:.0f} | {len(rs)} |")
PYTHON
