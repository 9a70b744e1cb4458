# Starts and stops what is measured. Sourced by the scripts beside it; each function sets `targets` and `pids`.
# Everything listens on loopback and lives below $work, which the caller makes and removes.

fail() { echo "$0: $*" >&2; exit 1; }

# Waits until a command succeeds, 15 s at most.
await() {
    for _ in $(seq 150); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
    fail "waited for: $*"
}

port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
is_ready() { curl -sf "http://127.0.0.1:$1/readyz"; }

start_selvedge() { # name, settings for gateways (key=value)...
    local dir="$work/$1" set=(); shift
    for setting in "$@"; do set+=(--set "$setting"); done
    # --devices 0: the site just runs.
    "$selvedge" "${set[@]}" --devices 0 --data-dir "$dir" --mqtt-port 21883 --http-port 28081 --node-port 28080 \
        --uplink-port 28830 >"$dir.log" 2>&1 &
    parent=$!
    for port in 28081 28082 28083; do await is_ready "$port"; done
    targets=(127.0.0.1:21883 127.0.0.1:21884 127.0.0.1:21885)
    pids=($(pgrep -P "$parent" -f 'gateway --config'))
    parents=("$parent")
    extra=()
}

start_nats() { # name, sync_interval
    local dir="$work/$1" n
    mkdir -p "$dir"
    targets=(); pids=()
    for n in 1 2 3; do
        cat >"$dir/$n.conf" <<CONF
server_name: bench$n
listen: 127.0.0.1:2422$n
jetstream { store_dir: "$dir/$n", sync_interval: $2 }
cluster { name: bench, listen: 127.0.0.1:2622$n
    routes: [nats://127.0.0.1:26221, nats://127.0.0.1:26222, nats://127.0.0.1:26223] }
mqtt { listen: 127.0.0.1:2188$((n + 2)), stream_replicas: 3, ack_wait: "30s", max_ack_pending: 1000 }
CONF
        "$nats" -c "$dir/$n.conf" >"$dir/$n.log" 2>&1 &
        pids+=($!); targets+=("127.0.0.1:2188$((n + 2))")
    done
    for n in 21883 21884 21885; do await port_is_open "$n"; done
    sleep 5 # until the cluster has a leader for its streams
    parents=("${pids[@]}")
    extra=(--subscriber) # NATS stores nothing of a topic that nobody subscribes to
}

start_mosquitto() { # name
    printf 'listener 21883 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\n' \
        >"$work/$1.conf"
    "$mosquitto" -c "$work/$1.conf" >"$work/$1.log" 2>&1 &
    pids=($!); parents=($!); targets=(127.0.0.1:21883); extra=()
    await port_is_open 21883
}

stop() {
    kill -INT "${parents[@]}" 2>/dev/null || true
    wait "${parents[@]}" 2>/dev/null || true
    parents=()
}

# measure LABEL OPTIONS...: one run of the generator against what was started last.
measure() {
    local label=$1 args=() t; shift
    for t in "${targets[@]}"; do args+=(--target "$t"); done
    for t in "${pids[@]}"; do args+=(--watch "$t"); done
    "$generator" bench --label "$label" "${args[@]}" "${extra[@]}" --json "$reports" "$@"
}

# The programs, and a place for what they write.
generator=${GENERATOR:-target/release/firmware-sim}
selvedge=${SELVEDGE:-target/release/selvedge-local}
nats=${NATS:-nats-server}
mosquitto=${MOSQUITTO:-mosquitto}
work=$(mktemp -d "${BENCH_FOLDER:-/var/tmp}/selvedge-bench.XXXXXX")
parents=()
trap 'stop; rm -rf "$work"' EXIT
