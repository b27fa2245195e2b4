#!/usr/bin/env python3
"""Prints every field of every type that a pod's manifest can hold, as "Type.field", one a line.

    pip download --no-deps kubernetes && unzip -d DIR kubernetes-*.whl && tools/kubernetes_fields.py DIR
"""

import ast
import pathlib
import re
import sys

ROOTS = ["V1PodSpec", "V1ConfigMap", "V1Secret", "V1PersistentVolumeClaim", "V1ObjectMeta"]


def fields(node):
    """The fields of a model by their name in JSON, each with the names of the types in its annotation."""
    found = {}
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or "ClassVar" in ast.unparse(item.annotation):
            continue
        alias = re.search(r"alias='([^']+)'", ast.unparse(item))
        if alias or not item.target.id.startswith("_"):
            name = alias.group(1) if alias else item.target.id
            found[name] = re.findall(r"V1\w+", ast.unparse(item.annotation))
    return found


def main():
    classes = {}
    for path in pathlib.Path(sys.argv[1], "kubernetes/client/models").glob("v1_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("V1"):
                classes[node.name] = fields(node)
    todo, seen = list(ROOTS), set()
    while todo:
        name = todo.pop()
        if name in classes and name not in seen:
            seen.add(name)
            todo += [inner for types in classes[name].values() for inner in types]
    for name in sorted(seen):
        for field in sorted(classes[name]):
            print(f"{name.removeprefix('V1')}.{field}")


main()
