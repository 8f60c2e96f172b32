#!/usr/bin/env python3
"""mqctl as an operator uses it: every command of the table on a live node, statuses, prompts, terminals, pipes, Ctrl-C, groups, offline work."""
import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import threading
import time

import leat

KEYS = leat.SOURCE / "docs" / "formats" / "mqctl.md"


# ---- every command ------------------------------------------------------------------------------------------------------


def documented_keys():
    """Rows "| `topic list` | `topics[topic partitions]` `x` |" -> {"topic list": {"topics": {"topic", "partitions"}, "x": None}}."""
    out = {}
    for line in KEYS.read_text().splitlines():
        m = re.match(r"\| `([^`]+)` \| (.*) \|$", line)
        if m:
            out[m[1]] = {k: set(rows.split()) if rows else None for k, rows in re.findall(r"([a-z_]+)(?:\[([^\]]*)\])?", m[2])}
    return out


def check_keys(name, doc, keys):
    """What is documented is there, and what is there is documented, in the document and in its rows."""
    assert doc.pop("schema") == f"leat.{name.replace(' ', '.')}/1", name
    assert set(doc) == set(keys), f"{name}: printed {sorted(doc)}, {KEYS.name} says {sorted(keys)}"
    for key, row_keys in keys.items():
        if row_keys is None:
            continue
        rows = doc[key] if isinstance(doc[key], list) else [doc[key]]
        for row in rows:
            assert set(row) == row_keys, f"{name} {key}: printed {sorted(row)}, {KEYS.name} says {sorted(row_keys)}"


class Walk:
    """Runs commands with -o json and holds each against the document of keys; knows at the end what was never run."""

    def __init__(self, node):
        self.node, self.keys, self.done = node, documented_keys(), set()
        table = leat.run([leat.MQCTL, "help", "--json"]).json()["commands"]
        self.table = {" ".join(filter(None, (c["noun"], c["verb"]))): c for c in table}
        assert set(self.keys) == set(self.table), f"commands and {KEYS.name} differ: {set(self.keys) ^ set(self.table)}"

    def __call__(self, name, *args, code=0, input=None, rows=True, timeout=60):
        self.done.add(name)
        r = leat.run([leat.MQCTL, "--sandbox", f"{self.node.dir}:1", *name.split(), *args, "-o", "json"], input=input, check=False, timeout=timeout)
        assert r.code == code, (name, args, r.code, r.out[-500:], r.err[-1000:])
        doc = json.loads(r.out)
        check_keys(name, dict(doc), self.keys[name] if rows else dict.fromkeys(self.keys[name]))
        if rows:
            assert all(doc[k] or not isinstance(doc[k], list) for k, v in self.keys[name].items() if v), f"{name}: no rows to look at: {doc}"
        self.node_formats(name, args)
        return doc

    def node_formats(self, name, args):
        """Looking is harmless, so it is done in every format; wide and table are for people, the rest for programs."""
        if self.table[name]["impact"] != "ro" or name in ("debug bundle", "wait"):
            return
        for form in ("table", "wide", "tsv", "csv", "jsonl", "yaml", "name"):
            if name == "consume" and form in ("csv", "yaml"):
                continue
            r = leat.run([leat.MQCTL, "--sandbox", self.node.dir, *name.split(), *args, "-o", form], check=False)
            assert r.code in (0, 1), (name, form, r.code, r.err)
            if form == "jsonl":
                assert all(isinstance(json.loads(x), dict) for x in r.out.splitlines()), (name, r.out[:300])
            assert r.out or form in ("table", "wide", "name", "jsonl") or name == "config check", (name, form)

    def finish(self):
        assert self.done == set(self.table), f"never run: {set(self.table) - self.done}"


def every_command():
    with leat.Node("offsets.topic.num.partitions=2\n") as node:
        walk = Walk(node)
        walk("status", rows=False)
        walk("check", "all")
        walk("wait", "ready")
        walk("topic create", "t", "-p", "2")
        walk("topic alter", "t", "-p", "3", "-c", "retention=2d")
        walk("produce", "t", "-f", "%k:%v\n", input=b"".join(b"k%d:v%d\n" % (i, i) for i in range(300)))
        walk("consume", "t", "-r", ":end")
        walk("consume", "t", "-G", "g", "-n", "30")
        walk("topic list")
        walk("topic describe", "t")
        walk("topic plan", "--rate", "1000", "--size", "500", "--retention", "7d")
        walk("topic trim", "t", "--before", "2", "-y")
        walk("group list")
        walk("group describe", "g", rows=False)
        walk("group reset", "g", "--to", "start", "--execute")
        walk("group delete", "g", "-y")
        walk("config check", rows=False)
        walk("config show")
        walk("config explain", "log.retention.hours")
        walk("perf shm", "--records", "1000", rows=True)
        walk("perf latency", "--rate", "1000", "--time", "200ms", rows=True)
        with tempfile.TemporaryDirectory(prefix="leat-bundle-") as d:
            assert pathlib.Path(walk("debug bundle", "--to", d)["path"]).is_file()
        walk("help", rows=True)
        walk("instance list", rows=False)
        if "supervisor accept-clock" in walk.table:
            walk("supervisor accept-clock", "-y", rows=False)
        walk("supervisor status", rows=False)
        walk("supervisor reload", rows=False)
        walk("supervisor drain")
        walk("supervisor undrain")
        walk("supervisor restart", "broker")
        node.wait_ready()
        walk("supervisor stop", "consumer-coord")
        walk("supervisor start", "consumer-coord")
        node.wait_ready()
        walk("supervisor logs", "-n", "3", rows=False)
        walk("sandbox status", "--dir", node.dir)
        walk("sandbox kill", "--dir", node.dir, "--role", "broker", "--signal", "CONT")
        walk("topic delete", "t", "-y")
        walk("topic create", "kept")
        node.mqctl("produce", "kept", input="one\ntwo\n")
        walk("sandbox stop", "--dir", node.dir)
        walk("log verify", rows=False)
        walk("log dump", "kept-0")
        walk("log repair", "kept-0", "-y", rows=False)
        dump = leat.run([leat.MQCTL, "--sandbox", node.dir, "meta", "dump", "-o", "json"])
        walk.done.add("meta dump")
        assert walk.keys["meta dump"].keys() <= dump.json().keys(), dump.json().keys()
        (node.dir / "meta.json").write_bytes(dump.out)
        walk("meta restore", str(node.dir / "meta.json"), "-y")
        walk("sandbox start", "--dir", node.dir)
        assert node.mqctl("consume", "kept", "-r", ":end", "-f", "%v,").out == b"one,two,"
        instances(walk)
        walk.finish()


def instances(walk):
    """They live in /etc and /var, so the verbs that write are run where a namespace of mounts can hide those."""
    walk.done |= {"instance create", "instance drop"}
    if os.geteuid() != 0:
        print("SKIP: instance create and drop need root")
        return
    script = f"""
set -e
mount -t tmpfs none /etc/leat && mount -t tmpfs none /var/lib/leat && mount -t tmpfs none /run/leat
{leat.MQCTL} instance create walk --port 29999 -o json; echo
{leat.MQCTL} instance list -o json; echo
{leat.MQCTL} instance drop walk -y -o json
"""
    made = [d for d in map(pathlib.Path, ("/etc/leat", "/var/lib/leat", "/run/leat")) if not d.exists()]
    for d in made:
        d.mkdir(parents=True)
    try:
        r = leat.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script])
    finally:
        for d in made:
            d.rmdir()
    for name, line in zip(("instance create", "instance list", "instance drop"), filter(None, r.out.splitlines()), strict=True):
        check_keys(name, json.loads(line), walk.keys[name])


leat.main(every_command)
