#!/usr/bin/env bash
# The demo: a real model inspected, compressed three ways, evaluated and run. Needs the built program; fetches the
# model and, where the data folder has no WikiText-2, a public-domain text.
#
#   scripts/demo.sh [PARE]       WINDOWS=10 CTX=512 TOKENS=64 in the environment change its length
set -euo pipefail
cd "$(dirname "$0")/.."
pare=$(realpath "${1:-build/pare}")
windows=${WINDOWS:-10} ctx=${CTX:-512} tokens=${TOKENS:-64}
prompt="The old lighthouse keeper climbed the stairs every evening to"

model=$(scripts/models.sh smollm2 | tail -1)
text=$(scripts/text.sh | tail -1)
work=$(mktemp -d "${TMPDIR:-/tmp}/pare-demo-XXXXXX")
trap 'rm -rf "$work"' EXIT
say() { printf '\n== %s\n' "$*"; }

say "what the model holds: pare info"
"$pare" info "$model"

say "compress: pare compress MODEL -o OUT -r RECIPE"
declare -A out=([original]="$model" [q4_k_m]="$work/q4_k_m.gguf" [q8_0]="$work/q8_0.gguf"
  [magnitude-50%]="$work/sparse")
declare -A recipe=([q4_k_m]=q4_k_m [q8_0]=q8_0 [magnitude-50%]="magnitude:sparsity=50% + bitmap_bf16")
order=(original q8_0 q4_k_m magnitude-50%)
for name in "${order[@]:1}"; do
  "$pare" compress "$model" -o "${out[$name]}" -r "${recipe[$name]}" --json >"$work/$name.compress"
  python3 - "$work/$name.compress" "$name" "${recipe[$name]}" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
print(f"{sys.argv[2]:14} {sys.argv[3]:38} {r['out_bytes']/1e6:7.1f} MB  {r['seconds']:5.1f} s  "
      f"{len(r['fallbacks'])} fallbacks, {100*r['sparsity']:.0f}% zeros")
PY
done

say "evaluate (perplexity, hf protocol, first $windows windows of $ctx tokens) and generate $tokens tokens"
for name in "${order[@]}"; do
  "$pare" info "${out[$name]}" --json >"$work/$name.info"
  "$pare" eval "${out[$name]}" --text "$text" --protocol hf --ctx "$ctx" --windows "$windows" --json >"$work/$name.eval"
  "$pare" run "${out[$name]}" -p "$prompt" -n "$tokens" --temp 0 --json >"$work/$name.run"
  python3 - "$work/$name.run" "$name" <<'PY'
import json, sys, textwrap
r = json.load(open(sys.argv[1]))
print(f"-- {sys.argv[2]}")
print(textwrap.fill(" ".join(r["text"].split()), 96, initial_indent="   ", subsequent_indent="   "))
PY
done

say "the table ($(basename "$text"), $(nproc) threads)"
python3 - "$work" "${order[@]}" <<'PY'
import json, sys
work, names = sys.argv[1], sys.argv[2:]
print(f"{'model':14} {'size MB':>8} {'bits/weight':>12} {'perplexity':>11} {'prefill tok/s':>14} {'decode tok/s':>13}")
for n in names:
    info, ev, run = (json.load(open(f"{work}/{n}.{k}")) for k in ("info", "eval", "run"))
    print(f"{n:14} {info['file_bytes']/1e6:8.1f} {info['bits_per_weight']:12.3f} {ev['perplexity']['ppl']:11.3f} "
          f"{run['prefill_tokens_per_s']:14.0f} {run['decode_tokens_per_s']:13.1f}")
PY
