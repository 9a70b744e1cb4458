# Recipes for people. `.ci/run` is what CI runs; `just verify` is the same without installing anything.

# List the recipes.
default:
    @just --list

# Check form, documents, lints and tests; changes no source file and installs nothing.
verify:
    CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}" ./.ci/run --no-install

# Check links, anchors and the reference of the documents.
docs:
    ./.ci/docs

# Lint what is in no default build: exports to object stores.
cloud:
    cargo clippy --locked -p selvedge-node --all-targets --features cloud -- -D warnings

# Simulate sites under faults for a while: `just sim 10m`. Prints seeds a second; shrinks a failure.
sim for="1m":
    SELVEDGE_SIM_FOR={{for}} cargo test --release -p selvedge-gateway --test sim -- --ignored --nocapture budget

# Put right what tools can put right.
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged -- -D warnings
    cargo fmt --all

# Start a whole site on this machine; options as in docs/reference/command-lines.md: `just run --for 30s`.
run *options:
    cargo run --release -- {{options}}

# Check licences, advisories and sources of all dependencies (needs cargo-deny).
deny:
    cargo deny --all-features check
