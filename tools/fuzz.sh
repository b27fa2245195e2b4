#!/bin/sh
# Runs every fuzz target for some seconds, as cargo-fuzz would, but with the stable toolchain: fuzz.sh SECONDS [TARGET...]
# New inputs go to a folder outside the repository; what fails is written to fuzz/artifacts.
set -eu
cd "$(dirname "$0")/../fuzz"
seconds=${1:?seconds for each target}
shift
[ $# -gt 0 ] || set -- config process resources record seccomp filter
target=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
# Coverage is what cargo-fuzz asks for; the address sanitizer is left out, for it needs a nightly compiler.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks" \
    ${CARGO:-cargo} build --release --target x86_64-unknown-linux-gnu --target-dir "$target"
for name in "$@"; do
    found=$target/found/$name
    mkdir -p "$found" "artifacts/$name"
    echo "== fuzz $name: $seconds s"
    "$target/x86_64-unknown-linux-gnu/release/$name" "$found" "corpus/$name" -max_total_time="$seconds" \
        -timeout=10 -rss_limit_mb=2048 -max_len=65536 -artifact_prefix="artifacts/$name/" -verbosity=0 -print_final_stats=1
done
