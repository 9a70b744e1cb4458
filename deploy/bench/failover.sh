#!/usr/bin/env bash
# How long devices wait when a leading gateway is killed, and how long the site takes to start, as what was ever written grows.
#   deploy/bench/failover.sh REPORTS.jsonl
# Programs are named by GENERATOR and SELVEDGE; BENCH_FOLDER is on the disk to be measured.
set -euo pipefail
reports=${1:?give a file for the reports}
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/peers.sh"

for seconds in 0 4 20; do
    if [ "$seconds" != 0 ]; then
        start_selvedge site
        measure "fill" --connections 50 --in-flight 100 --seconds "$seconds"
        kill -KILL "${pids[@]}" # no snapshot, no goodbye
        stop
    fi
    began=$(date +%s%N)
    start_selvedge site
    echo "ready $((($(date +%s%N) - began) / 1000000)) ms after its start, $(du -sm "$work/site" | cut -f1) MiB on disk"
    stop
    "$selvedge" --data-dir "$work/site" --mqtt-port 21883 --http-port 28081 --node-port 28080 --uplink-port 28830 \
        --for 25s --kill-every 5s --devices 12 | grep -A 9 "The reckoning" | grep -E "lost|duplicated|gap"
done
