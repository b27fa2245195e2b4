#!/bin/sh
# Makes what is given to others, from executables that are built already. Called twice it makes the same bytes.
#
# usage: package.sh deb OUT      a Debian package
#        package.sh dist OUT     tarballs of executables and of the source, a bill of materials, and checksums
#
# environment: BINARY, SHIM and VMINIT name the executables; SOURCE_DATE_EPOCH the time that everything gets, by default that of the
# last commit.
set -eu

kind=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
: "${BINARY:?}" "${SHIM:?}" "${VMINIT:?}"
BINARY=$(realpath "$BINARY")
SHIM=$(realpath "$SHIM")
VMINIT=$(realpath "$VMINIT")
cd "$(dirname "$0")/.."
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH BINARY SHIM VMINIT
version=$("$BINARY" --version | sed -n '1s/.* //p')
architecture=$(dpkg --print-architecture)
work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
umask 022

# What is installed, below $work/stage.
stage() {
    make --no-print-directory -s install-built DESTDIR="$work/stage" PREFIX="$1"
    ln -s magikrun "$work/stage$1/bin/krun"
    doc=$work/stage$1/share/doc/magikrun
    mkdir -p "$doc"
    cp README.md CHANGELOG.md SECURITY.md docs/*.md "$doc"
    cp -R examples "$doc"
    cp packaging/copyright "$doc/copyright"
    python3 tools/sbom.py licences "$doc/licences"
    python3 tools/sbom.py sbom > "$doc/sbom.cdx.json"
}

settle() {
    find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# pack DIRECTORY NAME: a tarball of DIRECTORY/NAME.
pack() {
    tar --create --directory "$1" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        --format=gnu "$2" | gzip --no-name --best
}

deb() {
    stage /usr
    find "$work/stage/usr/share/man" -type f -exec gzip --no-name --best {} +
    mv "$doc/CHANGELOG.md" "$doc/changelog"
    gzip --no-name --best "$doc/changelog"
    mkdir "$work/stage/DEBIAN"
    size=$(du --apparent-size -sk "$work/stage/usr" | cut -f 1)
    sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$size/" packaging/control \
        > "$work/stage/DEBIAN/control"
    install -m 0755 packaging/prerm "$work/stage/DEBIAN/prerm"
    (cd "$work/stage" && find usr -type f -print0 | sort -z | xargs -0 md5sum) > "$work/stage/DEBIAN/md5sums"
    settle "$work/stage"
    dpkg-deb --root-owner-group -Zxz --build "$work/stage" "$out/magikrun_${version}_$architecture.deb" > /dev/null
    echo "$out/magikrun_${version}_$architecture.deb"
}

dist() {
    name=magikrun-$version
    stage /usr
    mv "$work/stage/usr" "$work/$name-linux-$architecture"
    pack "$work" "$name-linux-$architecture" > "$out/$name-linux-$architecture.tar.gz"
    git archive --format=tar --prefix="$name/" HEAD | gzip --no-name --best > "$out/$name.tar.gz"
    cp "$work/$name-linux-$architecture/share/doc/magikrun/sbom.cdx.json" "$out/$name.cdx.json"
    (cd "$out" && sha256sum "$name-linux-$architecture.tar.gz" "$name.tar.gz" "$name.cdx.json" > "$name.sha256")
    cat "$out/$name.sha256"
}

case $kind in
deb) deb ;;
dist) dist ;;
*)
    echo "usage: package.sh deb|dist OUT" >&2
    exit 1
    ;;
esac
