#!/usr/bin/env bash
# Two builds of Selvedge in turn on this machine with the same generator, to see what a change costs.
#   deploy/bench/versions.sh REPORTS.jsonl OLD NEW [ROUNDS]
# OLD and NEW are their selvedge-local programs. GENERATOR names the generator, BENCH_FOLDER is on the disk to be measured.
set -euo pipefail
reports=${1:?give a file for the reports}
old=${2:?give the old selvedge-local}
new=${3:?give the new selvedge-local}
rounds=${4:-3}
source "$(dirname "${BASH_SOURCE[0]}")/peers.sh"

seconds=${SECONDS_EACH:-4}
one_build() { # label, program, round
    selvedge=$2
    start_selvedge "$1-$3"
    measure "$1" --connections 50 --in-flight 100 --seconds "$seconds"
    measure "$1, one in flight" --connections 1 --devices 64 --in-flight 1 --seconds "$seconds" --warmup 1 --disk "$work"
    measure "$1, 5000/s" --connections 500 --rate 5000 --seconds "$seconds"
    stop
}

# Each round begins with the other one, so that neither always runs on the quieter machine.
for round in $(seq "$rounds"); do
    echo "== round $round of $rounds"
    if ((round % 2)); then order=(old new); else order=(new old); fi
    for build in "${order[@]}"; do one_build "$build" "${!build}" "$round"; done
done

"$generator" summary "$reports"
