#!/usr/bin/env python3
"""Tells what the executables consist of, from what cargo knows and from the sources of the crates.

usage: sbom.py sbom            prints a software bill of materials (CycloneDX 1.5, JSON)
       sbom.py licences DIR    copies the licence files of the crates to DIR, one folder a crate, and writes DIR/INDEX
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import uuid
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("magikrun", "containerd-shim-magikrun", "vminit")
TARGET = "x86_64-unknown-linux-gnu"
# Linked into magikrun, and no crate.
LIBSECCOMP = {
    "type": "library",
    "name": "libseccomp",
    "licenses": [{"license": {"id": "LGPL-2.1-only"}}],
    "purl": "pkg:deb/debian/libseccomp-dev",
}


def metadata():
    cargo = os.environ.get("CARGO", "cargo")
    command = [cargo, "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def linked(data):
    """The crates that the programs are linked with, and the programs: neither tests' nor build scripts' crates."""
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    packages = {package["id"]: package for package in data["packages"]}
    waiting = [identifier for identifier in data["workspace_members"] if packages[identifier]["name"] in PROGRAMS]
    found = {}
    while waiting:
        identifier = waiting.pop()
        if identifier in found:
            continue
        found[identifier] = packages[identifier]
        for dependency in nodes[identifier]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    return sorted(found.values(), key=lambda package: (package["name"], package["version"]))


def checksums():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    return {(entry["name"], entry["version"]): entry.get("checksum") for entry in lock["package"]}


def licence(package):
    """The SPDX expression of a crate; that of its file if it names none, as cargo-deny finds it."""
    if package["license"]:
        return package["license"].replace("/", " OR ")
    files = [path.read_text(errors="replace") for path in licence_files(package)]
    return "MIT" if any("Permission is hereby granted, free of charge, to any person" in text for text in files) else None


def component(package, sums):
    own = package["name"] in PROGRAMS
    entry = {
        "type": "application" if own else "library",
        "bom-ref": f"{package['name']}@{package['version']}",
        "name": package["name"],
        "version": package["version"],
        "purl": f"pkg:cargo/{package['name']}@{package['version']}",
    }
    expression = licence(package)
    if expression:
        entry["licenses"] = [{"expression": expression}]
    checksum = sums.get((package["name"], package["version"]))
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return entry


def sbom(data):
    packages = linked(data)
    sums = checksums()
    components = [component(package, sums) for package in packages] + [LIBSECCOMP]
    content = json.dumps(components, sort_keys=True).encode()
    time = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), timezone.utc)
    own = next(package for package in packages if package["name"] == PROGRAMS[0])
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=4)}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "application", "name": own["name"], "version": own["version"]},
        },
        "components": components,
    }
    print(json.dumps(document, indent=2))


def licence_files(package):
    folder = Path(package["manifest_path"]).parent
    names = ("license", "licence", "copying", "notice", "unlicense", "copyright")
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.lower().startswith(names)]
    named = package["license_file"]
    return files or ([folder / named] if named else [])


def licences(data, directory):
    directory.mkdir(parents=True, exist_ok=True)
    index = []
    for package in linked(data):
        if package["source"] is None:
            continue
        name = f"{package['name']}-{package['version']}"
        files = licence_files(package)
        index.append(f"{name}: {licence(package) or 'see the file'}" + ("" if files else " (the crate has no file)"))
        for path in files:
            (directory / name).mkdir(exist_ok=True)
            shutil.copyfile(path, directory / name / path.name)
    (directory / "INDEX").write_text("\n".join(index) + "\n")


def main(arguments):
    match arguments:
        case ["sbom"]:
            sbom(metadata())
        case ["licences", directory]:
            licences(metadata(), Path(directory))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
