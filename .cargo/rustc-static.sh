#!/bin/sh
# Called by cargo as: rustc-static.sh rustc <arguments>, for the crates of this workspace only.
#
# magikrun, vminit and containerd-shim-magikrun-v2 are static (no dynamic loader) and not position independent
# (no relocations at start): about a millisecond less for every command. Flags set for the whole build would reach
# procedural macros and build scripts too, where +crt-static fails, so they are added here, for the
# final crate alone.
name= type= ordered=
prev=
for arg in "$@"; do
    case $prev in
        --crate-name) name=$arg ;;
        --crate-type) type=$arg ;;
    esac
    # What cargo says with `lto = "fat"`: a release, whose functions are worth an order.
    [ "$prev $arg" != "-C lto=fat" ] || ordered=yes
    prev=$arg
done
case $name:$type:$ordered in
    magikrun:bin:yes | magikrun_krun:bin:yes) set -- "$@" "-Clinker=${0%/*}/ordered-cc.sh" ;;
esac
# For tools/order.py, which needs the names of functions.
[ -z "${MAGIKRUN_SYMBOLS:-}" ] || [ "$name:$type" != magikrun:bin ] || set -- "$@" -Cstrip=none
# Its own entry point: src/bin/magikrun/ffi.rs.
[ "$name:$type:$(uname -m)" != magikrun:bin:x86_64 ] || set -- "$@" -Clink-arg=-Wl,-e,magikrun_start
case $name:$type in
    magikrun:bin | vminit:bin | hostile_guest:bin | containerd_shim_magikrun_v2:bin) exec "$@" -Ctarget-feature=+crt-static -Crelocation-model=static ;;
    *) exec "$@" ;;
esac
