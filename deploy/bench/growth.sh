#!/usr/bin/env bash
# What devices notice while a gateway joins a loaded site, and while it leaves again.
#   deploy/bench/growth.sh REPORTS.jsonl [ROUNDS]
# Programs are named by GENERATOR and SELVEDGE; BENCH_FOLDER is on the disk to be measured. SECONDS_EACH is how long each
# measurement lasts, MAX_RATE the bytes per second for all moves.
set -euo pipefail
reports=${1:?give a file for the reports}
rounds=${2:-3}
source "$(dirname "${BASH_SOURCE[0]}")/peers.sh"
seconds=${SECONDS_EACH:-10}
rate=${MAX_RATE:-67108864}
api=http://127.0.0.1:28081

full=(--connections 50 --in-flight 100 --seconds "$seconds")
steady=(--connections 500 --rate 5000 --seconds "$seconds")

directory() { curl -sf "$api/v1/directory"; }
is_settled() { directory | grep -q '"misplaced_count":0' && directory | grep -q '"moves":\[\]'; }
has_four() { [ "$(directory | grep -o '"state":"active"' | wc -l)" = 4 ]; }
is_empty() { directory | grep -o '"gateway":4,.*' | grep -q '"replicas":0'; }

# Waits until a condition holds, and says how long that took.
timed() { # what, command
    local began; began=$(date +%s%N)
    for _ in $(seq 1200); do "$2" && break; sleep 0.1; done
    "$2" || fail "not within two minutes: $1"
    echo "$1: $((($(date +%s%N) - began) / 1000000)) ms"
}

join() { # folder of the site
    local site=$1 token seeds
    token=$(curl -sf -X POST "$api/v1/invitations" -d '{}' | sed 's/.*"token":"\([0-9a-f]*\)".*/\1/')
    seeds=$(grep -o 'peer = "[^"]*"' "$site/gateway-1.toml" | cut -d'"' -f2 | sed 's/.*/"&"/' | paste -sd,)
    (umask 077 && echo "$token" >"$site/token")
    {
        echo -e "[site]\nname = \"local\"\nsecret_file = \"$site/site-secret\"\nseeds = [$seeds]"
        echo -e "[gateway]\njoin_token_file = \"$site/token\"\ndata_dir = \"$site/gateway-4\""
        echo -e "[mqtt]\nbind = \"127.0.0.1:21886\"\n[http]\nbind = \"127.0.0.1:28084\"\n[peer]\nbind = \"127.0.0.1:27084\""
        sed -n '/^\[uplink\]/,$p' "$site/gateway-1.toml"
    } >"$site/gateway-4.toml"
    "$gateway" --config "$site/gateway-4.toml" >"$site/gateway-4.log" 2>&1 &
    parents+=("$!")
}

gateway=${GATEWAY:-target/release/selvedge-gateway}
for round in $(seq "$rounds"); do
    echo "== round $round of $rounds"
    start_selvedge "site-$round"
    curl -sf -X POST "$api/v1/moves/rate" -d "{\"bytes_per_s\":$rate}" >/dev/null
    measure "full load" "${full[@]}"
    measure "5000/s" "${steady[@]}"
    join "$work/site-$round"
    measure "full load, a gateway joins" "${full[@]}" &
    load=$!
    timed "the fourth gateway is active" has_four
    timed "all replicas are where they should be" is_settled
    wait "$load"
    echo "the fourth gateway's disk: $(du -sm "$work/site-$round/gateway-4" | cut -f1) MiB"
    curl -sf -X POST "$api/v1/gateways/4/drain" >/dev/null
    measure "5000/s, a gateway drains" "${steady[@]}" &
    load=$!
    timed "the fourth gateway is empty" is_empty
    wait "$load"
    stop
done
"$generator" summary "$reports"
