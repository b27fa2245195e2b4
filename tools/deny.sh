#!/bin/sh
# Holds the dependencies against deny.toml: with tools/deny.py, and with cargo-deny where it is installed.
#
# Advisories are not looked at: their database is no crate, and a build must not depend on a network. CONTRIBUTING.md says when
# they are.
set -eu
cd "$(dirname "$0")/.."

python3 tools/deny.py
if cargo deny --version > /dev/null 2>&1; then
    cargo deny --offline check bans licenses sources
fi
