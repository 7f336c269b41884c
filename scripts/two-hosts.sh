#!/usr/bin/env bash
# Several machines, tried on one: two network namespaces as hosts with an address each, joined by a pair of virtual interfaces, and Open MPI
# over TCP between them, which starts the second host's process by an agent as it would by ssh. Checked: two hosts end with the bytes of
# two ranks on one host and of one rank (--deterministic), a killed rank ends all and the same command goes on to those bytes, calibration
# gives one rank's results. Prints tokens/s.
#
#   scripts/two-hosts.sh [BUILD]      OUT=folder (two-hosts), TEXT (docs/*.md), STEPS (6), BATCH (8)
#
# Needs root (ip netns); skips with a line where that, ip or MPI is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "${1:-build}")
out=$(realpath -m "${OUT:-two-hosts}")
steps=${STEPS:-6} batch=${BATCH:-8}
skip() { echo "two-hosts: skipped: $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
for tool in ip mpirun unshare; do command -v $tool >/dev/null || skip "$tool is not there"; done
"$build/pare" --version | grep -qi mpi || skip "pare was built without MPI"
scripts/models.sh >/dev/null
model=${PARE_CACHE:-$HOME/.cache/pare}/models/smollm2.gguf
one=pare-one-$$ two=pare-two-$$ # names of the namespaces, and of the hosts in them
mkdir -p "$out"

clean_up() {
  for n in $one $two; do
    ip netns pids $n 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    ip netns del $n 2>/dev/null || true
  done
  rm -f "$out/agent"
}
trap clean_up EXIT
ip netns add $one 2>/dev/null || skip "ip netns is not allowed here"
ip netns add $two
ip link add pare1 netns $one type veth peer name pare2 netns $two || skip "virtual interfaces are not allowed here"
for i in 1 2; do
  n=$one; [ $i = 2 ] && n=$two
  ip -n $n addr add 10.77.0.$i/24 dev pare$i
  ip -n $n link set pare$i up
  ip -n $n link set lo up
done

# agent ADDRESS COMMAND...: what ssh would do
cat >"$out/agent" <<EOF
#!/bin/sh
shift
exec ip netns exec $two unshare --uts sh -c 'hostname $two; eval "\$*"' agent "\$@"
EOF
chmod +x "$out/agent"

export PARE_RECORDS=$out/records.db OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# hosts COMMAND...: a rank on each host, with half of the threads each as two hosts of one machine have them
hosts() {
  ip netns exec $one unshare --uts sh -c 'hostname '$one'; exec "$@"' hosts mpirun -n 2 --host 10.77.0.1,10.77.0.2 --map-by node --bind-to none \
    --mca plm_rsh_agent "$out/agent" --mca oob_tcp_if_include 10.77.0.0/24 --mca btl_tcp_if_include 10.77.0.0/24 --mca btl tcp,self \
    -x PARE_RECORDS "$@"
}
local_ranks() { mpirun -n 2 --oversubscribe --bind-to none "$@"; }

train=("$build/pare" train --arch llama --dim 256 --layers 8 --heads 4 --ctx 256 --tokenizer "$model" --vocab 8192 --data "${TEXT:-docs/*.md}"
  --steps "$steps" --batch "$batch" --micro-batch 2 --seed 5 --eval-windows 4 --log-every 1 --threads 1)
sum() { sha256sum <"$1/model.safetensors" | cut -c1-16; }
rate() { grep -o '"tokens_per_s": *[0-9.]*' "$1.json" | tail -n 1 | grep -o '[0-9]*[.]' | tr -d .; }
same() { [ "$1" = "$2" ] || { echo "two-hosts: $3: found $1, expected $2" >&2; exit 1; }; }

rm -rf "$out"/one* "$out"/pair* "$out"/hosts* "$out"/killed* "$out"/fast*
"${train[@]}" "$out/one" --deterministic --json >"$out/one.json"
local_ranks "${train[@]}" "$out/pair" --deterministic --json >"$out/pair.json"
hosts "${train[@]}" "$out/hosts" --deterministic --json >"$out/hosts.json"
want=$(sum "$out/one")
same "$(sum "$out/pair")" "$want" "two ranks on one host"
same "$(sum "$out/hosts")" "$want" "a rank on each of two hosts"
echo "same bytes: $want; tokens/s: one rank $(rate "$out/one"), two on one host $(rate "$out/pair"), two hosts $(rate "$out/hosts")"

local_ranks "${train[@]}" "$out/fast-pair" --json >"$out/fast-pair.json"
hosts "${train[@]}" "$out/fast" --json >"$out/fast.json"
echo "without --deterministic: two ranks on one host $(rate "$out/fast-pair") tokens/s, two hosts $(rate "$out/fast")"

# the second host's rank is killed behind a checkpoint: all end, and the same command goes on
hosts "${train[@]}" "$out/killed" --deterministic --save-every 1 >"$out/killed.log" 2>&1 &
run=$!
until compgen -G "$out/killed.work/checkpoint-*.safetensors" >/dev/null; do
  kill -0 $run 2>/dev/null || { echo "two-hosts: ended before it was killed" >&2; cat "$out/killed.log" >&2; exit 1; }
  sleep 0.05
done
victim=$(for p in $(ip netns pids $two); do [ "$(cat /proc/"$p"/comm 2>/dev/null)" = pare ] && echo "$p"; done | head -n 1)
kill -9 "$victim"
code=0
wait $run || code=$?
[ $code != 0 ] || { echo "two-hosts: a killed rank: found exit code 0" >&2; exit 1; }
left=$(for n in $one $two; do ip netns pids $n; done | wc -l)
[ "$left" = 0 ] || { echo "two-hosts: a killed rank: found $left processes left" >&2; exit 1; }
hosts "${train[@]}" "$out/killed" --deterministic --save-every 1 >>"$out/killed.log" 2>&1
same "$(sum "$out/killed")" "$want" "gone on after a killed rank"
echo "a killed rank ended all (exit code $code), the same command went on to the same bytes"

# calibration
cal=("$build/pare" compress "$out/one" -r gptq:bits=4,group=64 --calib docs/training.md --calib-samples 8 --calib-ctx 256 --seed 5)
rm -rf "$out"/cal*
"${cal[@]}" -o "$out/cal-one" >/dev/null
hosts "${cal[@]}" -o "$out/cal-hosts" >/dev/null
same "$(sum "$out/cal-hosts")" "$(sum "$out/cal-one")" "calibration on two hosts"
echo "calibration on two hosts: the same bytes"
