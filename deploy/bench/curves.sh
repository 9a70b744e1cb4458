#!/usr/bin/env bash
# How Selvedge behaves as things grow: connections, devices, shards, rate, idle connections. One report a line.
#   deploy/bench/curves.sh REPORTS.jsonl
# Programs are named by GENERATOR and SELVEDGE; BENCH_FOLDER is on the disk to be measured.
set -euo pipefail
reports=${1:?give a file for the reports}
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/peers.sh"
seconds=${SECONDS_EACH:-5}

echo "== idle, and 10,000 idle connections"
start_selvedge idle
kill -STOP "$parent" # it asks the gateways how they are once a second
measure "idle" --idle --connections 3 --seconds 20 --warmup 5
measure "idle connections" --idle --connections 10000 --seconds 5
kill -CONT "$parent"; stop

echo "== connections"
start_selvedge connections
for n in 1 10 100 1000; do measure "connections" --connections "$n" --in-flight 100 --seconds "$seconds"; done
stop

echo "== devices, over 100 connections (1 and 10: as many connections)"
start_selvedge devices
for n in 1 10 100 1000 10000; do
    measure "devices" --connections $((n < 100 ? n : 100)) --devices "$n" --in-flight 100 --seconds "$seconds"
done
stop

for n in 16 32 64 128 256; do
    echo "== $n shards"
    start_selvedge "shards-$n" site.shards="$n"
    measure "shards $n" --connections 100 --in-flight 50 --devices 1000 --seconds "$seconds"
    stop
done

for delay in 0 250; do
    echo "== flash by rate, log.commit_delay_ms = $delay"
    start_selvedge "flash-$delay" log.commit_delay_ms="$delay"
    for rate in 10 100 1000 10000; do
        measure "commit_delay_ms $delay" --connections 100 --rate "$rate" --in-flight 1000 --seconds $((seconds * 2))
    done
    measure "commit_delay_ms $delay, full load" --connections 50 --in-flight 100 --seconds "$seconds"
    stop
done

"$generator" summary "$reports"
