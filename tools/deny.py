#!/usr/bin/env python3
"""Holds the dependencies against deny.toml: licences, sources, and crates that are banned.

cargo-deny does the same and more. This is what can be checked without it and without a network.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from sbom import licence

ROOT = Path(__file__).resolve().parent.parent


def metadata(targets):
    cargo = os.environ.get("CARGO", "cargo")
    command = [cargo, "metadata", "--format-version", "1", "--locked"]
    for target in targets:
        command += ["--filter-platform", target]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def allowed(expression, licences):
    """Whether an SPDX expression can be fulfilled with these licences."""
    words = re.findall(r"\(|\)|[^\s()]+", expression)
    python = []
    while words:
        word = words.pop(0)
        if word in ("(", ")"):
            python.append(word)
        elif word in ("OR", "AND"):
            python.append(word.lower())
        else:
            if words and words[0] == "WITH":
                word = f"{word} WITH {words[1]}"
                del words[:2]
            python.append(str(word in licences))
    return eval(" ".join(python))  # Only brackets, and, or, True, False are in it.


def faults(config, data):
    licences = set(config["licenses"]["allow"])
    registry = "registry+"
    for package in data["packages"]:
        name = f"{package['name']} {package['version']}"
        if package["source"] is None:
            continue
        if not package["source"].startswith(registry):
            yield f"{name}: comes from {package['source']}"
        expression = licence(package)
        if not expression:
            yield f"{name}: names no licence"
        elif not allowed(expression, licences):
            yield f"{name}: licence {expression} is not allowed"
    names = {package["id"]: package["name"] for package in data["packages"]}
    members = {names[member] for member in data["workspace_members"]}
    for ban in config["bans"]["deny"]:
        for node in data["resolve"]["nodes"]:
            parent = names[node["id"]]
            kinds = [d["dep_kinds"] for d in node["deps"] if names[d["pkg"]] == ban["name"]]
            uses = any(kind["kind"] is None for kinds_of in kinds for kind in kinds_of)
            if uses and parent not in ban.get("wrappers", []) and parent not in members - {"magikrun"}:
                yield f"{parent}: depends on {ban['name']}, which is banned"


def main():
    config = tomllib.loads((ROOT / "deny.toml").read_text())
    found = list(faults(config, metadata(config["graph"]["targets"])))
    for fault in found:
        print(fault, file=sys.stderr)
    sys.exit(1 if found else 0)


main()
