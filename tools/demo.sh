#!/bin/sh
# Shows the life of a container: makes a bundle from Debian's busybox, and says what each command prints and how long it
# takes.
#
# usage: demo.sh MAGIKRUN
set -eu

magikrun=$(realpath "$1")
if [ "$(id -u)" -ne 0 ]; then
    echo "the demonstration needs root: it makes namespaces and cgroups" >&2
    exit 1
fi
work=$(mktemp -d)
id="demo-$$"
run() {
    "$magikrun" --root "$work/state" "$@"
}
# Called by the trap.
clean() {
    run delete --force "$id"
    rm -rf "$work"
}
trap clean EXIT

# Shows a command, runs it, and tells the time it took.
show() {
    echo
    echo "\$ magikrun $*"
    begin=$(date +%s%N)
    run "$@"
    end=$(date +%s%N)
    echo "  ($(((end - begin) / 10000)) x 10 us)" | sed -E 's/\(([0-9]*)([0-9]{2}) x 10 us\)/(\1.\2 ms)/; s/\(\./(0./'
}

echo "a root file system from busybox:"
mkdir -p "$work/rootfs/bin" "$work/rootfs/proc" "$work/rootfs/sys" "$work/rootfs/dev" "$work/rootfs/tmp"
cp "$(command -v busybox)" "$work/rootfs/bin/busybox"
for name in $(busybox --list); do
    [ "$name" = busybox ] || ln -s busybox "$work/rootfs/bin/$name"
done
ls "$work/rootfs"

cd "$work"
show spec
sed -i 's/"terminal": true/"terminal": false/' config.json

sed -i '/"args"/,/]/ s/"sh"/"sh", "-c", "echo hello from $(hostname), pid $$; id"/' config.json
show run "$id"

sed -i '/"args"/,/]/ s/"sh", "-c", ".*"/"sleep", "1000"/' config.json
show create "$id"
show state "$id"
show start "$id"
show list
show exec "$id" ps
show update --memory 64M --pids-limit 50 "$id"
show kill "$id" KILL
show delete "$id"
