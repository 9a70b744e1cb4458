#!/usr/bin/env bash
# What the gateways of a site hold in memory, and write to flash, as time goes on under a steady load: one line after each
# interval. Windows of 1 s make what piles up with closed windows show within 40 s.
#   deploy/bench/memory.sh [DEVICES] [RATE] [INTERVALS] [KEY=VALUE...]
# prints per interval and gateway the resident MiB, and of these the anonymous ones (the rest are pages of files, which the system may
# take back at any time); then the bytes that a gateway wrote to flash per reading that the site acknowledged: the log, and snapshots and
# contents of batches. How many bytes the log takes depends on how many readings share an fsync: the slower the disk, the more.
# SECONDS_EACH is the length of an interval; KEY=VALUE are settings of the gateways, such as rules.windows_ms=[10000].
# Programs are named by GENERATOR and SELVEDGE; BENCH_FOLDER is on the disk to be measured.
set -euo pipefail
devices=${1:-1000}
rate=${2:-10000}
intervals=${3:-8}
settings=("${@:4}")
[ ${#settings[@]} -gt 0 ] || settings=("rules.windows_ms=[1000]")
seconds=${SECONDS_EACH:-5}
here=$(dirname "${BASH_SOURCE[0]}")
reports=/dev/null
source "$here/peers.sh"

mib_of() { # key pid
    awk -v key="$1:" '$1 == key { printf "%.1f", $2 / 1024 }' "/proc/$2/status"
}

# The accounts of the gateways' threads of one name: "log", or "store", which writes snapshots and contents of batches.
accounts() {
    for pid in "${pids[@]}"; do grep -lx "$1" "/proc/$pid/task/"*/comm | sed 's/comm$/io/'; done
}
written_bytes() { # accounts...
    awk '$1 == "write_bytes:" { sum += $2 } END { print sum + 0 }' "$@"
}
# How many publishes, of a reading each, were acknowledged.
acknowledged() {
    for port in 28081 28082 28083; do curl -s "http://127.0.0.1:$port/v1/status"; echo; done |
        grep -o '"publishes_acked":[0-9]*' | awk -F: '{ sum += $2 } END { print sum + 0 }'
}

per_reading() { # bytes
    awk -v b="$1" -v r=$((now_acked - acked)) -v g=${#pids[@]} 'BEGIN { printf "%.0f", r ? b / r / g : 0 }'
}

start_selvedge memory "${settings[@]}"
measure "memory" --connections 100 --devices "$devices" --rate "$rate" --in-flight 1000 --warmup 0 \
    --seconds $((seconds * intervals + 5)) >"$work/generator.log" 2>&1 &
load=$!
printf '%s devices, %s readings/s, %s\n' "$devices" "$rate" "${settings[*]}"
printf '%8s | %-23s | %-23s | %10s | %9s | %s\n' seconds "resident MiB" "of which anonymous" readings "log bytes" "snapshot and batch bytes"
log_accounts=($(accounts log)); store_accounts=($(accounts store))
log=$(written_bytes "${log_accounts[@]}"); store=$(written_bytes "${store_accounts[@]}"); acked=$(acknowledged)
began=$SECONDS
for n in $(seq "$intervals"); do
    sleep "$seconds"
    now_log=$(written_bytes "${log_accounts[@]}"); now_store=$(written_bytes "${store_accounts[@]}"); now_acked=$(acknowledged)
    resident=; anonymous=
    for pid in "${pids[@]}"; do
        resident+="$(mib_of VmRSS "$pid") "; anonymous+="$(mib_of RssAnon "$pid") "
    done
    printf '%8s | %-23s | %-23s | %10s | %9s | %s\n' $((SECONDS - began)) "$resident" "$anonymous" $((now_acked - acked)) \
        "$(per_reading $((now_log - log)))" "$(per_reading $((now_store - store)))"
    log=$now_log; store=$now_store; acked=$now_acked
done
wait "$load" || fail "the generator failed: $(tail -n 3 "$work/generator.log")"
