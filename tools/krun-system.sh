#!/bin/sh
# Builds magikrun-krun with the feature `system`, for a libkrun that is a library of the system, and starts it.
#
# No release of Debian has that library. But cargo makes it from the crate that is linked in otherwise, beside the one for Rust; what
# is missing is a header and a file for pkg-config. The program is left in krun-system/ of the target folder. With a folder as argument,
# it is copied there too, beside the library.
set -eu
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
target=$($cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
folder=$target/krun-system
version=$($cargo metadata --format-version 1 --locked | grep -o '#libkrun@[0-9.]*' | head -n 1 | cut -d @ -f 2)
library=$($cargo build --quiet --locked --package magikrun-krun --message-format=json-render-diagnostics |
    grep -o '"[^"]*/libkrun-[0-9a-f]*\.so"' | tail -n 1 | tr -d '"')
[ -n "$library" ] || { echo "cargo did not build libkrun.so" >&2; exit 1; }

# Bindings are generated anew when this path is another one; cargo knows of no change in the header.
files=$folder/$(cat shims/krun/system/libkrun.h tools/krun-system.sh | sha256sum | cut -c 1-16)
mkdir -p "$files"
cp "$library" "$files/libkrun.so.1"
ln -sf libkrun.so.1 "$files/libkrun.so"
cp shims/krun/system/libkrun.h "$files"
cat >"$files/libkrun.pc" <<END
Name: libkrun
Description: virtual machines as processes
Version: $version
Libs: -L$files -lkrun
Cflags: -I$files
END
export PKG_CONFIG_PATH="$files${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
# The default features stay: without them all that it depends on is compiled once more, with fewer features.
program=$($cargo build --quiet --locked --package magikrun-krun --features system \
    --message-format=json-render-diagnostics | grep -o '"executable":"[^"]*"' | tail -n 1 | cut -d '"' -f 4)
[ -n "$program" ] || { echo "cargo did not build magikrun-krun" >&2; exit 1; }
cp "$program" "$folder/magikrun-krun"
# It does not even start without the library.
if "$folder/magikrun-krun" --version 2>/dev/null; then
    echo "'$program' does not need libkrun" >&2
    exit 1
fi
LD_LIBRARY_PATH=$files "$folder/magikrun-krun" --version
if [ $# -gt 0 ]; then
    mkdir -p "$1"
    cp "$folder/magikrun-krun" "$files/libkrun.so.1" "$1"
fi
