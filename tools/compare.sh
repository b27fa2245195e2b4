#!/bin/sh
# Prints the table of the README: what runtimes say of themselves. One that is not installed has a dash.
#
# usage: compare.sh RUNTIME...
set -u

# has RUNTIME COMMAND: whether it knows a command; all of them answer --help of one that they know with its name.
has() {
    "$1" "$2" --help 2>/dev/null | grep -q "$2" && echo yes || echo no
}

# wasm RUNTIME: whether it says that it runs modules.
wasm() {
    { "$1" features; "$1" --version; } 2>/dev/null | grep -qiE '"org.magikrun.backends": ".*wasm|\+WASM' && echo yes || echo no
}

libraries() {
    count=$(ldd "$1" 2>/dev/null | grep -c '=>')
    [ "$count" -eq 0 ] && echo none || echo "$count"
}

row() {
    what=$1
    shift
    printf '| %s |' "$what"
    for runtime in $runtimes; do
        path=$(command -v "$runtime") && printf ' %s |' "$("$@" "$path")" || printf ' - |'
    done
    echo
}

commands() {
    set -- "$1" create start state kill delete run exec ps list pause resume update events checkpoint restore spec features
    runtime=$1
    shift
    count=0
    for name in "$@"; do
        [ "$(has "$runtime" "$name")" = yes ] && count=$((count + 1))
    done
    echo "$count of $#"
}

command_of() {
    has "$2" "$1"
}

runtimes=$*
printf '| |'
for runtime in $runtimes; do printf ' %s |' "$(basename "$runtime")"; done
echo
printf '%s' '|---|'
for runtime in $runtimes; do printf '%s' '---|'; done
echo
row "commands of runc" commands
row "WebAssembly" wasm
row "images: \`image\`" command_of image
row "pods: \`pod\`" command_of pod
row "a look at the machine: \`doctor\`" command_of doctor
row "shared libraries that it loads" libraries
