#!/usr/bin/env python3
"""Every key of the configuration catalogue that is not declared ignored is read by a daemon: its name stands in the code outside
the catalogue, or it is the default of a topic key that is read. Files that only judge or show values do not count."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
FOLDERS = ("broker", "consumer-coord", "controller", "meta", "storage", "supervisor")
NO_READERS = {"config_catalog.c", "config_keys.c", "status.c"}
CHECKED = {"allow.insecure", "remote.storage.enable"}  # their effect is what config_keys.c refuses
SKIPPED = {"controller.listener.names"}  # read only to leave those listeners out

catalogue = (root / "meta/config_catalog.c").read_text()
rows = dict(re.findall(r'^    \{"([a-z][a-z0-9.]*)", ([^\n]*)$', catalogue, re.M))
live = {name: row for name, row in rows.items() if "UNUSED_TOPIC" not in row}
ignored = rows.keys() - live.keys() | set(re.findall(r'^    IGNORED\w*\("([a-z][a-z0-9.]*)"', catalogue, re.M))
default_of = {}  # broker key -> topic keys
for name, row in live.items():
    for broker_key in re.findall(r', "([a-z.]+)",$', row):
        default_of.setdefault(broker_key, []).append(name)

files = [p for folder in FOLDERS for p in (root / folder).rglob("*.c") if p.name not in NO_READERS]
named = {s for p in files for s in re.findall(r'"([a-z][a-z0-9.]*)"', p.read_text())}
named |= CHECKED & set(re.findall(r'"([a-z][a-z0-9.]*)"', (root / "meta/config_keys.c").read_text()))


def is_read(name):
    return name in named or any(topic_key in named for topic_key in default_of.get(name, []))


problems = [f"meta/config_catalog.c: nothing reads {name}: read it, or list it as IGNORED with the reason" for name in sorted(live) if not is_read(name)]
problems += [f"meta/config_catalog.c: {name} is listed as ignored, but is read" for name in sorted((ignored & named) - SKIPPED)]
if len(live) < 90 or len(ignored) < 100 or len(default_of) < 15 or is_read("no.such.key"):
    problems.append("the check looked at nothing")
print("\n".join(problems) or f"{len(live)} keys are read, {len(ignored)} are ignored with a reason")
sys.exit(1 if problems else 0)
