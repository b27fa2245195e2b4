#!/bin/sh
# Runs every fuzz target for some seconds, as cargo-fuzz would, but with the stable toolchain: fuzz.sh SECONDS [TARGET...]
# New inputs go to a folder outside the repository; what fails is written to fuzz/artifacts.
set -eu
cd "$(dirname "$0")/../fuzz"
seconds=${1:?seconds for each target}
shift
[ $# -gt 0 ] || set -- config process resources record seccomp filter guest reference manifest layer
target=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
# Coverage is what cargo-fuzz asks for; the address sanitizer is left out, for it needs a nightly compiler.
RUSTC_WRAPPER=$PWD/../tools/coverage-rustc.sh ${CARGO:-cargo} build --target-dir "$target"
for name in "$@"; do
    found=$target/found/$name
    mkdir -p "$found" "artifacts/$name"
    echo "== fuzz $name: $seconds s"
    "$target/debug/$name" "$found" "corpus/$name" -max_total_time="$seconds" \
        -timeout=10 -rss_limit_mb=2048 -max_len=65536 -artifact_prefix="artifacts/$name/" -verbosity=0 -print_final_stats=1
done
