#!/usr/bin/python3
"""Writes .cargo/order.txt: the functions that the operations of a container execute, in the order of their first time.

    tools/order.py [PROGRAM]

PROGRAM is a release build with symbols (MAGIKRUN_SYMBOLS=1), which is made if it is not given. Needs root, gcc and busybox-static, and
takes some minutes, for everything is executed step by step. Call it when the launch path has changed much.
"""

import bisect
import json
import os
import re
import subprocess
import sys
import tempfile

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# With a filter, a limit, and what engines ask for, so that their code is executed too.
LIFE = """set -eu
run() { "$program" --root "$scratch/state" "$@"; }
run create --bundle "$scratch/bundle" --pid-file "$scratch/pid" life
run start life
run state life
run list
run exec life true
run kill life KILL
while kill -0 "$(cat "$scratch/pid")" 2>/dev/null; do :; done
run delete life
run run --detach --bundle "$scratch/bundle" life
run delete --force life
"""


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def build():
    subprocess.run(["cargo", "build", "--release", "--locked", "--package", "magikrun"], check=True, cwd=HOME,
                   env={**os.environ, "MAGIKRUN_SYMBOLS": "1"})
    return os.path.join(HOME, os.environ.get("CARGO_TARGET_DIR", "target"), "release/magikrun")


def bundle(program, directory):
    for name in ["bin", "dev", "proc", "sys"]:
        os.makedirs(os.path.join(directory, "rootfs", name))
    subprocess.run(["cp", "/bin/busybox", os.path.join(directory, "rootfs/bin")], check=True)
    for name in ["true", "sleep"]:
        os.symlink("busybox", os.path.join(directory, "rootfs/bin", name))
    subprocess.run([program, "spec"], check=True, cwd=directory)
    path = os.path.join(directory, "config.json")
    with open(path) as file:
        config = json.load(file)
    config["process"].update(terminal=False, args=["sleep", "600"])
    config["linux"]["cgroupsPath"] = f"/mkorder-{os.getpid()}"
    config["linux"]["resources"].update(pids={"limit": 100}, memory={"limit": 1 << 28})
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}],
    }
    with open(path, "w") as file:
        json.dump(config, file)


def text_section(program):
    section = re.search(r" \.text +PROGBITS +([0-9a-f]+) +[0-9a-f]+ +([0-9a-f]+)", output("readelf", "-SW", program))
    begin = int(section[1], 16)
    return begin, begin + int(section[2], 16)


def addresses(program, scratch):
    begin, end = text_section(program)
    executed, found = os.path.join(scratch, "executed"), os.path.join(scratch, "addresses")
    subprocess.run(["cc", "-O2", "-o", executed, os.path.join(HOME, "tools/executed.c")], check=True)
    bundle(program, os.path.join(scratch, "bundle"))
    subprocess.run([executed, found, f"{begin:x}", f"{end:x}", "sh", "-c", LIFE], check=True,
                   stdout=subprocess.DEVNULL, env={**os.environ, "program": program, "scratch": scratch})
    with open(found) as file:
        return [int(line, 16) for line in file]


def functions(program, found):
    """The names of the functions that the addresses are in, without the hash of a build, each once."""
    symbols = [line.split() for line in output("nm", "--defined-only", "--numeric-sort", program).splitlines()]
    symbols = [(int(address, 16), name) for address, kind, name in symbols if kind in "tTwWi"]
    starts = [address for address, _ in symbols]
    names = {}
    for address in found:
        # A grain begins up to 15 bytes before the instruction: the symbol that begins in it counts.
        at = bisect.bisect_right(starts, address + 15) - 1
        first = bisect.bisect_left(starts, starts[at])
        for _, name in symbols[first:at + 1]:
            names.setdefault(re.sub(r"17h[0-9a-f]{16}E.*", "", name))
    return list(names)


def main():
    program = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else build()
    with tempfile.TemporaryDirectory() as scratch:
        names = functions(program, addresses(program, scratch))
    with open(os.path.join(HOME, ".cargo/order.txt"), "w") as file:
        file.writelines(name + "\n" for name in names)
    print(f"{len(names)} functions")


if __name__ == "__main__":
    main()
