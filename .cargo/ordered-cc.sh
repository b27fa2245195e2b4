#!/bin/sh
# The linker of magikrun and magikrun-krun, called as cc: it puts the functions that the operations of a container execute side by side,
# so that they take few pages of memory and few page faults. order.txt names them without the hashes that differ from build to build; a
# name that is no longer there costs nothing. tools/order.py makes the list.
set -eu
here=${0%/*}
output= previous=
objects=$(cc -print-file-name=libc.a)
for arg in "$@"; do
    case $arg in *.o | *.a | *.rlib) [ "$previous" = -o ] || objects="$objects
$arg" ;; esac
    [ "$previous" != -o ] || output=$arg
    previous=$arg
done
order=$output.order
IFS='
'
# Of each symbol its name without the hash, and all of it.
nm --defined-only --format=just-symbols $objects 2>/dev/null | sed -E 's/^((.*)17h[0-9a-f]{16}E.*)$/\2 \1/; /^[^ ]*$/s/.*/& &/' |
    awk 'NR == FNR { rank[$1] = FNR; next } $1 in rank && !done[$2]++ { print rank[$1], $2 }' "$here/order.txt" - |
    sort -n | cut -d ' ' -f 2 >"$order"
unset IFS
cc "$@" "-Wl,--symbol-ordering-file=$order,--no-warn-symbol-ordering"
rm -f "$order"
