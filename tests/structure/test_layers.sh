#!/usr/bin/env bash
# A layer includes only from those below it (the table of DESIGN: cli, src/study, pipeline, methods, eval/train/generate,
# model, autograd, text, io, tensor, kernels, base). A public header counts as the layer that it documents; the CLI sees
# public headers only; methods never include each other; each public header compiles alone, as C and as C++.
set -uo pipefail
cd "${PARE_SOURCE:-.}"
fail=0

declare -A rank=([base]=0 [kernels]=1 [tensor]=2 [io]=3 [text]=4 [autograd]=5 [model]=6 [eval]=7 [train]=7 [generate]=7
  [methods]=8 [pipeline]=9 [study]=10)
declare -A public=([base]=base [encoding]=tensor [tokenizer]=text [model]=model [generate]=generate [chat]=generate [eval]=eval
  [bench]=eval [methods]=methods [optim]=methods [sparsity]=methods [compress]=pipeline [train]=pipeline [study]=study [analyze]=study)

for file in $(find src -name '*.[ch]'); do
  layer=$(cut -d/ -f2 <<<"$file")
  if [ -z "${rank[$layer]:-}" ]; then echo "$file: folder src/$layer has no place in the table of layers"; fail=1; continue; fi
  while IFS=: read -r line include; do
    case "$include" in
      support/emulate.h) continue ;; # only with PARE_EMULATE, in tests
      pare/*) name=${include#pare/}; target=${public[${name%.h}]:-} ;;
      *) target=${include%%/*} ;;
    esac
    if [ -z "$target" ] || [ -z "${rank[$target]:-}" ]; then
      echo "$file:$line: \"$include\" belongs to no layer"; fail=1
    elif [ "$target" != "$layer" ] && [ "${rank[$target]}" -ge "${rank[$layer]}" ]; then
      echo "$file:$line: layer $layer includes \"$include\" of layer $target, which is not below it"; fail=1
    elif [ "$layer" = methods ] && [[ "$include" == methods/*/* ]] && [ "$(dirname "$include")" != "$(dirname "${file#src/}")" ]; then
      echo "$file:$line: a method includes \"$include\" of another"; fail=1
    fi
  done < <(grep -nE '^#include "' "$file" | sed -E 's/^([0-9]+):#include "([^"]+)".*/\1:\2/' | grep -vE '\.(def|inc)$|support/emulate.h')
done

for file in $(find cli -name '*.[ch]'); do
  while IFS=: read -r line include; do
    case "$include" in
      pare/*) ;;
      */*) echo "$file:$line: the CLI includes \"$include\", which is not public"; fail=1 ;;
    esac
  done < <(grep -nE '^#include "' "$file" | sed -E 's/^([0-9]+):#include "([^"]+)".*/\1:\2/')
done

for header in include/pare/*.h; do
  name=$(basename "$header" .h)
  [ -n "${public[$name]:-}" ] || { echo "$header: not in this test's table of public headers"; fail=1; }
  echo "#include \"pare/$name.h\"" | ${CC:-cc} -std=c11 -Wall -Wextra -Werror -Iinclude -fsyntax-only -x c - ||
    { echo "$header: does not compile alone"; fail=1; }
done

duplicate=$(find src cli -name '*.[ch]' -printf '%f\n' | sort | uniq -d)
[ -z "$duplicate" ] || { echo "file names that stand twice in the tree: $duplicate"; fail=1; }

[ $fail -eq 0 ] && echo "layers: $(find src -name '*.[ch]' | wc -l) files checked"
exit $fail
