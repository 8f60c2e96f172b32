#!/usr/bin/env python3
"""The direction of includes between folders (docs/architecture.md), and that no source or header is left out.

base <- {wire, shm} <- {storage, meta, client} <- {controller, broker, consumer-coord, supervisor} <- {mqctl, tests, bench}
Daemons never include each other. storage may be included by meta (topic configs become a PlogConfig).
"""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
low = {"base"}
mid = low | {"wire", "shm"}
allowed = {
    "base": {"base"},
    "wire": {"base", "wire"},
    "shm": {"base", "shm"},
    "storage": low | {"wire", "storage"},
    "meta": mid | {"storage", "meta"},
    "client": mid | {"client"},
    "controller": mid | {"storage", "meta", "controller"},
    "broker": mid | {"storage", "meta", "broker"},
    "consumer-coord": mid | {"storage", "meta", "consumer-coord"},
    "supervisor": mid | {"storage", "meta", "supervisor"},
    "mqctl": mid | {"storage", "meta", "client", "mqctl"},
    "examples": set(),
}
included = {}  # header -> who includes it, tests and bench as well
for path in root.rglob("*.[ch]"):
    if not path.relative_to(root).parts[0].startswith("build"):
        for target in re.findall(r'#\s*include\s+"([^"]+)"', path.read_text()):
            included.setdefault(target.split("/")[-1], set()).add(path.name)
errors = 0
seen = 0
for folder, may in allowed.items():
    for path in sorted((root / folder).rglob("*.[ch]")):
        seen += 1
        for number, line in enumerate(path.read_text().splitlines(), 1):
            m = re.match(r'\s*#\s*include\s+(["<])([^">]+)', line)
            if not m:
                continue
            target = m.group(2)
            top = target.split("/")[0]
            if m.group(1) == "<":
                if top in allowed:
                    print(f"{path.relative_to(root)}:{number}: include ours in quotes, not <{target}>")
                    errors += 1
            elif "/" not in target:
                print(f"{path.relative_to(root)}:{number}: include from the root, not {target!r}")
                errors += 1
            elif top not in may:
                print(f"{path.relative_to(root)}:{number}: {folder}/ may not include {target}")
                errors += 1
        if path.suffix == ".h" and not included.get(path.name) and "include" not in path.parts:
            print(f"{path.relative_to(root)}: nobody includes it (dead file)")
            errors += 1
        if path.suffix == ".c":
            build = "".join(p.read_text() for p in (root / folder).rglob("meson.build"))
            if f"'{path.stem}'" not in build and path.name not in build:
                print(f"{path.relative_to(root)}: in no meson.build (dead file)")
                errors += 1
assert seen > 20, "the check looked at nothing"
print(f"{seen} files, {errors} errors")
sys.exit(1 if errors else 0)
