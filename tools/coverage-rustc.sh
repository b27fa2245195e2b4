#!/bin/sh
# A wrapper of rustc that adds what a fuzzer needs of a crate (coverage, comparisons, checks) to those that are fuzzed, and leaves
# their dependencies as they are: coverage-rustc.sh RUSTC ARGUMENT...
case " $* " in
*" --crate-name magikrun "* | *" --crate-name magikrun_fuzz "* | *" --crate-name oci_spec "* | *" fuzz_targets/"*)
    exec "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares -Coverflow-checks -Copt-level=1
    ;;
esac
exec "$@"
