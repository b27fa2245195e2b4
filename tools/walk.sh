#!/bin/sh
# Walks through the README as somebody who has just installed the package, on a Debian 12 with nothing else, and then makes the
# mistakes that are likely. Needs root, and a mirror of Debian.
#
# usage: walk.sh PACKAGE.deb [DIRECTORY]
#
# DIRECTORY keeps the root file system for the next walk; without it one is made and removed. The network of the walk is its own: a
# loopback device, and a registry on it with one image, busybox.
set -eu

package=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
[ "$(id -u)" -eq 0 ] || { echo "the walk needs root: it makes a root file system and namespaces" >&2; exit 1; }
"$here/packages.sh" mmdebstrap docker-registry skopeo umoci busybox-static util-linux iproute2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=${2:-$work/root}

# What the README says to install, and no more than that.
if [ ! -e "$root/etc/debian_version" ]; then
    echo "a Debian 12 in $root"
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,curl,clang,lld,wasi-libc,libclang-rt-14-dev-wasm32 \
        bookworm "$root"
fi
# What every installed Debian has, and a minimal root file system lacks.
echo "127.0.0.1 localhost" > "$root/etc/hosts"
cp "$package" "$root/root/magikrun.deb"
sed -n '/^## Pull and run/,$p' "$here/../README.md" > "$root/root/README.md"
install -m 0755 "$here/walk/readme.sh" "$here/walk/mistakes.sh" "$root/root"

# The image in the registry: busybox, as it is in Debian.
mkdir -p "$work/files/bin"
cp "$(command -v busybox)" "$work/files/bin/busybox"
for name in $("$work/files/bin/busybox" --list); do
    [ "$name" = busybox ] || ln -s busybox "$work/files/bin/$name"
done
umoci init --layout "$work/layout"
umoci new --image "$work/layout:box"
umoci insert --image "$work/layout:box" "$work/files" /
umoci config --image "$work/layout:box" --config.cmd sh --config.env PATH=/bin
# The same for another machine, with a program that says so of itself: its ELF header has the number of AArch64.
umoci new --image "$work/layout:arm"
printf '\267' | dd of="$work/files/bin/busybox" bs=1 seek=18 conv=notrunc status=none
umoci insert --image "$work/layout:arm" "$work/files" /
umoci config --image "$work/layout:arm" --architecture arm64 --config.cmd sh --config.env PATH=/bin

export WORK="$work" ROOT="$root"
exec_in() {
    unshare --mount --net --uts --pid --fork --kill-child --propagation private sh -eu -c "$1"
}
# shellcheck disable=SC2016 # the inner shell expands it
exec_in '
    ip link set lo up
    mount --bind "$ROOT" "$ROOT"
    mount -t proc proc "$ROOT/proc"
    mount -t sysfs sysfs "$ROOT/sys"
    mount --rbind /sys/fs/cgroup "$ROOT/sys/fs/cgroup"
    mount --rbind /dev "$ROOT/dev"
    mount -t tmpfs tmpfs "$ROOT/run"
    mount -t tmpfs tmpfs "$ROOT/tmp"
    mkdir -p "$ROOT/var/lib/magikrun"
    mount -t tmpfs tmpfs "$ROOT/var/lib/magikrun"
    printf "version: 0.1\nstorage: {filesystem: {rootdirectory: %s/registry}}\nhttp: {addr: \"127.0.0.1:5000\"}\n" "$WORK" \
        > "$WORK/registry.yml"
    OTEL_TRACES_EXPORTER=none docker-registry serve "$WORK/registry.yml" > "$WORK/registry.log" 2>&1 &
    tries=0
    until skopeo copy --quiet --dest-tls-verify=false "oci:$WORK/layout:box" docker://127.0.0.1:5000/library/busybox:1.36; do
        tries=$((tries + 1))
        [ "$tries" -lt 50 ] || exit 1
        sleep 0.2
    done 2> "$WORK/waiting.log"
    skopeo copy --quiet --dest-tls-verify=false "oci:$WORK/layout:arm" docker://127.0.0.1:5000/library/other-machine:latest
    inside() { env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8 chroot "$ROOT" sh -eu -c "cd /root; $1"; }
    inside "dpkg --install magikrun.deb"
    inside ./readme.sh
    inside ./mistakes.sh
    inside "dpkg --purge magikrun"
    left=$(inside "dpkg-query --listfiles magikrun 2> /dev/null || true; ls /usr/bin/magikrun /usr/libexec/magikrun 2> /dev/null || true")
    [ -z "$left" ] || { echo "left behind: $left"; exit 1; }
'
echo "the walk ends well"
