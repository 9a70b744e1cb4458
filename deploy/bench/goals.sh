#!/usr/bin/env bash
# Selvedge beside NATS JetStream and Mosquitto, each in turn on this machine with the same generator, in rounds, so that what
# else the machine does meets all of them.
#   deploy/bench/goals.sh REPORTS.jsonl [ROUNDS]
# Programs are named by GENERATOR, SELVEDGE, NATS and MOSQUITTO; BENCH_FOLDER is on the disk to be measured.
set -euo pipefail
reports=${1:?give a file for the reports}
rounds=${2:-3}
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/peers.sh"

seconds=${SECONDS_EACH:-8}
one_system() { # label
    measure "$1" --connections 50 --in-flight 100 --seconds "$seconds"
    measure "$1, one in flight" --connections 1 --devices 64 --in-flight 1 --seconds "$seconds" --warmup 1 --disk "$work"
    measure "$1, 5000/s" --connections 500 --rate 5000 --seconds "$seconds"
}

for round in $(seq "$rounds"); do
    echo "== round $round of $rounds"
    start_selvedge "selvedge-$round"; one_system selvedge; stop
    start_nats "nats-$round" always; one_system "NATS R3, sync always"; stop
    start_nats "nats-default-$round" 2m; one_system "NATS R3, sync 2 min"; stop
    start_mosquitto "mosquitto-$round"; one_system mosquitto; stop
done

"$generator" summary "$reports"
