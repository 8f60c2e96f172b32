#!/usr/bin/env python3
"""mqctl as an operator uses it: every command of the table on a live node, statuses, prompts, terminals, pipes, Ctrl-C, groups, offline work."""
import contextlib
import fcntl
import hashlib
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


# ---- statuses -----------------------------------------------------------------------------------------------------------


def statuses():
    """Every status of `mqctl help`, and that a message names the thing and a way out."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "orders", "-p", "2")
        node.mqctl("produce", "orders", input="x\n")
        assert node.mqctl("complete", "topic").out == b"orders\n" and node.mqctl("complete", "partition", "or").out == b"orders-0\norders-1\n"
        for args, code, words in (
                (["topic", "list"], 0, ()),
                (["stauts"], 2, ("status",)), (["topic", "lst"], 2, ("list",)), (["topic"], 2, ("mqctl topic create",)),
                (["topic", "list", "--quite"], 2, ("--quiet",)), (["topic", "list", "-o", "jsno"], 2, ("json",)),
                (["consume", "orders", "-o", "start"], 2, ("-r start",)), (["consume", "orders", "-r", "9:3"], 2, ("ends before",)),
                (["consume", "orders", "-r", "yesterday"], 2, ("@-1h",)), (["topic", "create", "x", "-c", "retentin=1d"], 2, ("retention",)),
                (["topic", "create", "x", "-c", "retention=soon"], 2, ("250ms",)), (["group", "reset", "g"], 2, ("--to",)),
                (["topic", "create", "../x"], 2, ("topic name",)), (["supervisor", "stop", "brokre"], 2, ("broker",)),
                (["perf", "shm", "--flush", "disk"], 2, ("os or fsync",)), (["produce", "orders", "-f", "%Q"], 2, ("%Q",)),
                (["topic", "describe", "ordesr"], 5, ("orders",)), (["consume", "ordesr"], 5, ("orders",)), (["topic", "delete", "ordesr", "-y"], 5, ("orders",)),
                (["group", "describe", "nobody"], 5, ("mqctl group list",)), (["consume", "orders", "-p", "7"], 5, ("2",)),
                (["topic", "create", "orders"], 6, ("orders",)), (["topic", "alter", "orders", "-p", "1"], 6, ("orders",)),
                (["log", "verify"], 6, ("sandbox stop",)), (["log", "repair", "orders-0", "-y"], 6, ("sandbox stop",)),
                (["log", "dump", "orders-0"], 6, ("sandbox stop",)), (["meta", "dump"], 6, ("sandbox stop",)),
                (["topic", "delete", "orders", "--dry-run"], 8, ()), (["topic", "alter", "orders", "-c", "retention=1d", "--dry-run"], 8, ()),
                (["topic", "create", "y", "--dry-run"], 8, ()), (["supervisor", "restart", "--dry-run"], 8, ("would restart",)),
                (["topic", "delete", "orders"], 8, ("-y",)), (["topic", "trim", "orders", "--before", "end"], 8, ("-y",))):
            r = node.mqctl(*args, check=False, input="")
            assert r.code == code, (args, r.code, r.err)
            assert all(w in r.err.decode() for w in words), (args, words, r.err)
            assert code in (0, 8) or not r.out, (args, r.out)
        assert leat.run([leat.MQCTL, "--sandbox", node.dir, "-b", "x:1", "topic", "list"], check=False).code == 2
        assert leat.run([leat.MQCTL, "-I", "no-such", "topic", "list"], check=False).code == 3
        for address in ("127.0.0.1:1", "no.such.host.invalid:9092", "unix:/no/such/socket"):
            r = leat.run([leat.MQCTL, "-b", address, "--timeout", "3s", "topic", "list"], check=False)
            assert r.code == 3 and address.encode() in r.err, (address, r.code, r.err)
        if os.geteuid() == 0:
            denied(node)
        hangs(node)
        node.kill("broker", "STOP")
        began = time.monotonic()
        r = node.mqctl("topic", "list", "--timeout", "300ms", check=False)
        assert r.code in (3, 7) and r.err and time.monotonic() - began < 3, (r.code, r.err, time.monotonic() - began)
        node.kill("broker", "CONT")
        assert node.mqctl("wait", "healthy", "--timeout", "20s").code == 0
        broken_daemon(node)
        bad_file(node)
    for args in (["topic", "list"], ["status"], ["group", "list"], ["supervisor", "status"], ["produce", "t"], ["consume", "t"], ["perf", "shm"]):
        r = leat.run([leat.MQCTL, "--sandbox", "/no/such/sandbox", *args], check=False, input=b"")
        assert r.code == 3 and b"/no/such/sandbox" in r.err and b"->" in r.err, (args, r.code, r.err)


def denied(node):
    """A user in none of the groups: 4, and the way in."""
    os.chmod(node.dir, 0o755)
    r = leat.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", leat.MQCTL, "--sandbox", node.dir, "topic", "list"],
                 check=False, env={"HOME": "/nonexistent"})
    assert r.code == 4 and b"leat-clients" in r.err, (r.code, r.err)
    for args, code in ((["status"], 4), (["check", "live"], 3)):
        r = leat.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", leat.MQCTL, "--sandbox", node.dir, *args],
                     check=False, env={"HOME": "/nonexistent"})
        assert r.code == code and b"leat-admin" in r.out + r.err, (args, r.code, r.out, r.err)


def hangs(node):
    """A supervisor that is stopped: said so, not taken for a node that is down; records flow on."""
    node.kill("supervisor", "STOP")
    r = node.mqctl("status", check=False)
    assert r.code == 3 and b"does not answer" in r.err and b"--role supervisor" in r.err, (r.code, r.err)
    assert node.mqctl("consume", "orders", "-r", ":end", "-f", "%v").out == b"x"
    node.kill("supervisor", "CONT")
    assert node.mqctl("status").code == 0


def out_of_disk():
    """Below disk.reserve: what is refused says why and what to do, at every door; reading and moving offsets go on."""
    with leat.Node("offsets.topic.num.partitions=2\n") as node:
        node.mqctl("topic", "create", "t", "-p", "1")
        node.mqctl("produce", "t", input="kept\n")
        conf = node.dir / "1" / "conf.d" / "full.conf"
        conf.write_text("disk.reserve = 99%\n")
        node.mqctl("supervisor", "reload")
        leat.wait_until("the node notices", lambda: any("disk.reserve" in why for why in node.status()["degraded"]), 15, 0.2)
        assert node.mqctl("check", "disk", check=False).code == 2
        quick = ("-X", "delivery.timeout.ms=1500")
        for args in (["produce", "t", *quick], ["topic", "create", "more"], ["perf", "shm", "-t", "t", "--records", "10", *quick]):
            r = node.mqctl(*args, input="x\n", check=False)
            assert r.code == 1 and r.err.count(b"disk.reserve") == 1 and b"free space" in r.err, (args, r.code, r.err)
        r = node.mqctl("status", check=False)
        assert r.code == 1 and b"disk.reserve" in r.out, (r.code, r.out)
        assert node.mqctl("consume", "t", "-G", "g", "-n", "1", "-f", "%v").out == b"kept"
        node.mqctl("group", "reset", "g", "--to", "start", "--execute")
        conf.unlink()
        node.mqctl("supervisor", "reload")
        leat.wait_until("it recovers by itself", lambda: node.mqctl("produce", "t", *quick, input="again\n", check=False).code == 0, 20, 0.3)


def waits_for_a_node():
    """A reader outlives the node: it says that it waits, for what, and when it is back; not a record is missed or doubled."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "t")
        p = subprocess.Popen([str(leat.MQCTL), "--sandbox", str(node.dir), "consume", "t", "-r", "0:2", "-f", "%v\n"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        node.children.append(p)
        node.mqctl("produce", "t", input="one\n")
        assert p.stdout.readline() == b"one\n"
        node.mqctl("supervisor", "stop", "broker")
        time.sleep(3)
        node.mqctl("supervisor", "start", "broker")
        node.mqctl("produce", "t", input="two\n")
        out, err = p.communicate(timeout=20)
        assert p.returncode == 0 and out == b"two\n", (p.returncode, out, err)
        assert b"waiting for it" in err and b"broker is stopped" in err and b"connected again" in err, err


def broken_daemon(node):
    """The coordinator gave up: status says so and how to look closer; what needs it says who is missing; start mends it."""
    node.mqctl("supervisor", "stop", "consumer-coord")
    r = node.mqctl("status", check=False)
    assert r.code == 1 and b"consumer-coord" in r.out and b"->" in r.out, (r.code, r.out)
    assert node.mqctl("check", "ready", check=False).code in (1, 2)
    r = node.mqctl("group", "list", "--timeout", "1s", check=False)
    assert r.code == 7 and b"consumer-coord is stopped" in r.err and b"supervisor start consumer-coord" in r.err, (r.code, r.err)
    assert node.mqctl("consume", "orders", "-r", ":end", "-f", "%v").out == b"x"
    node.mqctl("supervisor", "start", "consumer-coord")
    assert node.mqctl("group", "list", "-o", "json").json()["groups"] == []
    node.mqctl("supervisor", "stop", "broker")
    for args in (["topic", "list"], ["produce", "orders"]):
        r = node.mqctl(*args, "--timeout", "1s", check=False, input="x\n")
        assert r.code == 3 and b"broker is stopped" in r.err and b"supervisor start broker" in r.err, (args, r.code, r.err)
    leat.run([leat.MQCTL, "sandbox", "start", "--dir", node.dir])  # starts what is not running
    assert node.mqctl("status").code == 0 and node.mqctl("topic", "list", "-o", "name").out == b"orders\n"


def bad_file(node):
    """A mistake in a file: named with file, line and the likely word by check, reload and start; nothing changes."""
    conf = node.dir / "1" / "conf.d" / "mine.conf"
    conf.parent.mkdir(exist_ok=True)
    conf.write_text("# mine\nlog.retention.huors = 3\n")
    for args in (["config", "check"], ["supervisor", "reload"]):
        r = node.mqctl(*args, check=False)
        assert r.code == 78 and b"mine.conf:2" in r.err and b"log.retention.hours" in r.err, (args, r.code, r.err)
    assert node.mqctl("config", "check", "-o", "json", check=False).json()["errors"] == 1
    assert node.mqctl("status").code == 0
    node.stop()
    r = leat.run([leat.MQCTL, "sandbox", "start", "--dir", node.dir], check=False)
    assert r.code == 78 and b"mine.conf:2" in r.err, (r.code, r.err)
    conf.unlink()


# ---- terminals, pipes, signals ------------------------------------------------------------------------------------------


class Terminal:
    """A command on a terminal of its own: all three of its streams, or only those named."""

    def __init__(self, args, columns=80, streams=(0, 1, 2), env=None):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        pick = lambda i, other: slave if i in streams else other
        self.p = subprocess.Popen([str(a) for a in args], stdin=pick(0, subprocess.DEVNULL), stdout=pick(1, subprocess.PIPE),
                                  stderr=pick(2, subprocess.PIPE), start_new_session=True, env={**os.environ, "TERM": "xterm-256color", **(env or {})})
        os.close(slave)
        self.text = b""

    def read(self, until=None, timeout=20):
        deadline = time.monotonic() + timeout
        while until is None or until not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, (until, self.text)
            if not select.select([self.master], [], [], left)[0]:
                continue
            try:
                more = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                break
            if not more:
                break
            self.text += more
        return self.text

    def say(self, words):
        os.write(self.master, words)

    def end(self, timeout=20):
        text = self.read(timeout=timeout)
        code = self.p.wait(timeout)
        os.close(self.master)
        return code, text


def on_terminal(node, *args, **kw):
    return Terminal([leat.MQCTL, "--sandbox", node.dir, *args], **kw)


def prompts():
    """What loses something asks, names what is lost, and takes only yes; off a terminal it needs -y."""
    with leat.Node() as node:
        for answer, code in ((b"\n", 8), (b"n\n", 8), (b"orders\n", 8), (b"\x04", 8), (b"y\n", 0)):
            node.mqctl("topic", "create", "orders", "--if-not-exists")
            node.mqctl("produce", "orders", input="a\nb\n")
            t = on_terminal(node, "topic", "delete", "orders")
            asked = t.read(until=b"[y/N]")
            assert b"records" in asked, asked
            t.say(answer)
            assert t.end()[0] == code, (answer, t.text)
            assert node.mqctl("topic", "describe", "orders", check=False).code == (0 if code else 5), answer
        node.mqctl("topic", "create", "orders")
        t = on_terminal(node, "topic", "delete", "orders")
        t.read(until=b"[y/N]")
        os.killpg(t.p.pid, signal.SIGINT)
        assert t.end()[0] in (-signal.SIGINT, 130), t.text
        assert node.mqctl("topic", "describe", "orders").code == 0


def terminals():
    """Tables for people with units and aligned columns, progress bars that go away, no colour, narrow windows; a pipe gets none of it."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "a-topic-with-a-rather-long-name-that-no-window-likes", "-p", "3")
        code, text = on_terminal(node, "topic", "list").end()
        assert code == 0 and b"TOPIC" in text and b"\t" not in text and b"\x1b" not in text, text
        assert node.mqctl("topic", "list").out.startswith(b"topic\tpartitions\t"), "a pipe gets tsv"
        for columns in (40, 20, 0):
            code, text = on_terminal(node, "topic", "list", columns=columns).end()
            assert code == 0 and b"a-topic-with" in text, (columns, text)
            assert columns == 0 or b"rather-long-name-that-no-window-likes" in text.replace(b"\r\n", b""), (columns, text)
        for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {}):
            for args in (["status"], ["supervisor", "status"], ["help"]):
                assert b"\x1b[" not in on_terminal(node, *args, env=env).end()[1], (env, args)
        # looking again and again: the screen is cleared on a terminal only; Ctrl-C ends it
        t = on_terminal(node, "topic", "list", "-w", "200ms")
        assert t.read(until=b"TOPIC").startswith(b"\x1b[H\x1b[J"), t.text
        node.mqctl("topic", "create", "later")
        t.read(until=b"later")
        os.killpg(t.p.pid, signal.SIGINT)
        assert t.end()[0] == 130, t.text
        r = node.mqctl("topic", "delete", "later", "-w", "1s", "-y", check=False)
        assert r.code == 2 and b"no command to repeat" in r.err, (r.code, r.err)
        p = subprocess.Popen([str(leat.MQCTL), "--sandbox", str(node.dir), "topic", "list", "-w", "100ms", "-o", "jsonl"], stdout=subprocess.PIPE)
        assert [json.loads(p.stdout.readline())["topic"] for _ in range(6)].count("later") == 3
        p.terminate()
        assert p.wait(10) == 130
        p = subprocess.Popen([str(leat.MQCTL), "--sandbox", str(node.dir), "check", "lag", "-G", "none", "-w", "100ms", "-o", "tsv", "--no-header"], stdout=subprocess.PIPE)
        assert {p.stdout.readline().split(b"\t")[1] for _ in range(3)} == {b"UNKNOWN"}, "a check that is not well ended the watch"
        p.terminate()
        assert p.wait(10) == 130
        # a run of a second shows a bar with per cent and what is left, and takes it away
        t = on_terminal(node, "perf", "latency", "--rate", "500", "--time", "1500ms", streams=(2,))
        assert re.search(rb"perf latency \[#*-*\] +\d+%.*left", t.read(until=b"left")), t.text
        assert t.end()[0] == 0 and t.text.endswith(b"\r\x1b[K"), t.text
        # as does reading into a file, and writing from one; both need a while, so the node gets a slow one
        big = node.dir / "big"
        with open(big, "wb") as f:
            for i in range(100000):
                f.write(b"%d %s\n" % (i, b"y" * 150))
        node.mqctl("topic", "create", "big", "-p", "1", "-c", "flush.messages=1")
        t = on_terminal(node, "produce", "big", str(big), "-X", "batch.size=2000", streams=(2,))
        t.end()
        assert t.p.returncode == 0 and re.search(rb"big \[#*-*\] +\d+%", t.text), t.text[-300:]
        assert b"LAST WRITE" in node.mqctl("topic", "describe", "big", "-o", "table").out
        slow = ["bash", "-c", f"exec {leat.MQCTL} --sandbox {node.dir} consume big -r 0:100001 > {node.dir}/copy"]
        t = Terminal(slow, streams=(2,))  # waits for a record that is not there yet, so that the bar is seen
        assert re.search(rb"big \[#*-*\] +\d+%", t.read(until=b"left")), t.text[-300:]
        node.mqctl("produce", "big", input="last\n")
        assert t.end()[0] == 0 and len((node.dir / "copy").read_bytes().splitlines()) == 100001
        r = node.mqctl("perf", "latency", "--rate", "500", "--time", "600ms", "-o", "json")
        assert b"%" not in r.err and b"\x1b" not in r.err, r.err
        t = on_terminal(node, "perf", "latency", "--rate", "500", "--time", "600ms", "-q", streams=(2,))
        assert t.end() == (0, b""), t.text


def pipes_and_interrupts():
    """Readers that leave early, Ctrl-C at every long command: no error, no stack of words, statuses 0 and 130, nothing left behind."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "t", "-p", "2")
        node.mqctl("produce", "t", input="".join(f"{'x' * 200} {i}\n" for i in range(20000)))
        for command in ("consume t", "consume t -f '%v\\n'", "consume t -G early", "consume t -o json", "topic list", "help", "config show --all", "supervisor logs -n 1000"):
            r = leat.run(["bash", "-o", "pipefail", "-c", f"{leat.MQCTL} --sandbox {node.dir} {command} | head -c 10; echo ${{PIPESTATUS[0]}} >&2"], timeout=20)
            assert r.out and r.err == b"0\n", (command, r.err)
        full = leat.run(["bash", "-c", f"{leat.MQCTL} --sandbox {node.dir} topic list > /dev/full"], check=False)
        assert full.code == 1 and b"standard output" in full.err, full.err
        full = leat.run(["bash", "-c", f"{leat.MQCTL} --sandbox {node.dir} consume t > /dev/full"], check=False, timeout=20)
        assert full.code == 1 and b"standard output" in full.err, full.err

        p = interrupted(node, ["consume", "t", "-o", "json"], lambda p: p.stdout.read(1000))
        assert len(json.loads(p)["records"]) >= 1
        interrupted(node, ["consume", "t", "-r", "end"], lambda p: time.sleep(0.5))
        interrupted(node, ["consume", "t", "-G", "g"], lambda p: p.stdout.read(1))
        interrupted(node, ["produce", "t"], lambda p: (p.stdin.write(b"one\ntwo\n"), p.stdin.flush(), time.sleep(0.5)))
        interrupted(node, ["perf", "shm", "--records", "1G"], lambda p: time.sleep(1.5))
        node.mqctl("supervisor", "stop", "consumer-coord")
        interrupted(node, ["wait", "healthy", "--timeout", "60s"], lambda p: time.sleep(0.5))
        node.mqctl("supervisor", "start", "consumer-coord")
        assert [x["topic"] for x in node.mqctl("topic", "list", "-o", "json").json()["topics"]] == ["t"], "perf left its topic"
        leat.wait_until("the members have left", lambda: all(g["members"] == 0 for g in node.mqctl("group", "list", "-o", "json").json()["groups"]))


def interrupted(node, args, until):
    """SIGINT to the whole group, as a terminal does it. Returns what was printed."""
    p = subprocess.Popen([str(leat.MQCTL), "--sandbox", str(node.dir), *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         start_new_session=True)
    node.children.append(p)
    seen = until(p)
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=20)
    assert p.returncode == 130, (args, p.returncode, err)
    assert b"mqctl:" not in err, (args, err)
    return (seen if isinstance(seen, bytes) else b"") + out


# ---- records ------------------------------------------------------------------------------------------------------------


def bytes_and_formats():
    """Every verb of the format language against one record of odd bytes, and copies that are equal byte for byte."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "a", "-p", "1")
        node.mqctl("topic", "create", "b", "-p", "1")
        key, value = b"k\xff\x00\n\t", bytes(range(256))
        doc = {"key": {"base64": "a/8ACgk="}, "value": {"base64": __import__("base64").b64encode(value).decode()}, "ts": 1777716672031,
               "headers": [["h1", "v1"], ["h2", None], ["h3", {"base64": "//4="}]]}
        node.mqctl("produce", "a", "--format-json", input=json.dumps(doc) + "\n")
        show = lambda form, *more: node.mqctl("consume", "a", "-r", "0:1", "-f", form, *more).out
        for form, want in (("%k", key), ("%v", value), ("%k%v", key + value), ("%t/%p@%o\\n", b"a/0@0\n"), ("%d", b"1777716672031"),
                           ("%d{iso}", b"2026-05-02T10:11:12.031Z"), ("%d{s}", b"1777716672"), ("%d{strftime[%F %T]}", b"2026-05-02 10:11:12"),
                           ("%K %V %T %H", b"5 256 1 3"), ("%k{hex}", key.hex().encode()), ("%k{base64}", b"a/8ACgk="),
                           ("%V{big32}%V{little16}", b"\x00\x00\x01\x00\x00\x01"), ("%K{hex32}", b"00000005"), ("%h{%k=%v;}", b"h1=v1;h2=;h3=\xff\xfe;"),
                           ("%i%%\\t\\x41\\\\", b"1%\tA\\"), ("%e", b"0"), ("%v{json}", None)):
            out = show(form)
            assert want is None or out == want, (form, out, want)
        assert node.mqctl("consume", "a", "-r", "0:1", "-f", "%z", check=False).code == 2
        copied = node.mqctl("consume", "a", "-r", ":end", "-o", "jsonl").out
        node.mqctl("produce", "b", "--format-json", input=copied)
        again = json.loads(node.mqctl("consume", "b", "-r", ":end", "-o", "jsonl").out)
        first = json.loads(copied)
        assert {**again, "topic": "a"} == first and first["ts"] == 1777716672031, (first, again)
        node.mqctl("produce", "b", "-Z", "-k", "gone", input="\n")
        assert json.loads(node.mqctl("consume", "b", "-r", "-1", "-o", "jsonl").out)["value"] is None
        r = node.mqctl("consume", "b", "-o", "start", check=False)
        assert r.code == 2 and b"did you mean -r start" in r.err


# ---- groups -------------------------------------------------------------------------------------------------------------


def dated(node, topic, *ages_s):
    """One record per age, the oldest first."""
    now = int(time.time() * 1000)
    node.mqctl("produce", topic, "-p", "0", "--format-json", "-X", "linger.ms=0",
               input="".join(json.dumps({"value": f"v{i}", "ts": now - age * 1000}) + "\n" for i, age in enumerate(ages_s)))


def lag_in_time():
    """The age of the oldest record that is not yet read: by committed offset, also from the start, at the end, and behind a hole."""
    with leat.Node("offsets.topic.num.partitions=2\n") as node:
        node.mqctl("topic", "create", "t", "-p", "1", "-c", "retention=30d")
        dated(node, "t", 86400 * 6, 86400 * 2, 36000, 7200, 3600, 60, 1)
        lag = lambda: next(g for g in node.mqctl("group", "list", "-o", "json").json()["groups"])
        for offset, age_s in ((0, 86400 * 6), (1, 86400 * 2), (2, 36000), (4, 3600), (5, 60)):
            node.mqctl("group", "reset", "g", "-t", "t", "--to", str(offset), "--execute")
            g = node.mqctl("group", "describe", "g", "-o", "json").json()
            assert abs(g["lag_ms"] - age_s * 1000) < 20000 and g["partitions"][0]["lag_ms"] == g["lag_ms"], (offset, age_s, g)
            assert g["lag"] == 7 - offset and abs(lag()["lag_ms"] - age_s * 1000) < 20000
        text = node.mqctl("group", "describe", "g", "-o", "table").out
        assert b"LAG TIME" in text and b"1m" in text, text
        for limit, code in (("10min", 0), ("90s", 1), ("30s", 2)):
            assert node.mqctl("check", "lag", "--max-lag-time", limit, check=False).code == code, limit
        node.mqctl("group", "reset", "g", "--to", "start", "--execute")
        node.mqctl("topic", "trim", "t", "--before", "3", "-y")  # 7200 s is the oldest now
        assert abs(lag()["lag_ms"] - 7200 * 1000) < 20000
        node.mqctl("group", "reset", "g", "--to", "end", "--execute")
        assert lag()["lag"] == lag()["lag_ms"] == 0


def reset_with_members():
    """--force takes a libleat member and a Kafka client out; both come back by themselves and read again from the new offsets."""
    with leat.Node("offsets.topic.num.partitions=2\n") as node:
        node.mqctl("topic", "create", "t", "-p", "2")
        node.mqctl("produce", "t", input="".join(f"v{i}\n" for i in range(200)))
        node.mqctl("produce", "t", "-p", "0", input="a\n")
        node.mqctl("produce", "t", "-p", "1", input="b\n")
        members = [subprocess.Popen([str(leat.MQCTL), *where, "consume", "t", "-G", "g", "-f", "%v\n"], stdout=subprocess.PIPE)
                   for where in (["--sandbox", str(node.dir)], ["-b", node.kafka])]
        node.children += members
        lines = [[] for _ in members]
        for p, out in zip(members, lines):
            threading.Thread(target=lambda p=p, out=out: out.extend(p.stdout), daemon=True).start()
        total = lambda: sum(map(len, lines))
        group = lambda: node.mqctl("group", "describe", "g", "-o", "json").json()
        leat.wait_until("there is a group", lambda: node.mqctl("group", "describe", "g", check=False).code == 0, 30, 0.2)
        leat.wait_until("both members share the topic", lambda: len(group()["members"]) == 2 and all(m["partitions"] for m in group()["members"]), 30, 0.2)
        leat.wait_until("all is read and committed", lambda: total() >= 202 and group()["lag"] == 0, 30, 0.2)
        before = total()
        r = node.mqctl("group", "reset", "g", "--to", "start")
        assert b"--execute" in r.err and b"2 members" in r.err and b"--force" in r.err, r.err
        r = node.mqctl("group", "reset", "g", "--to", "start", "--execute", check=False)
        assert r.code == 6 and b"--force" in r.err, (r.code, r.err)
        assert group()["lag"] == 0 and total() == before
        doc = node.mqctl("group", "reset", "g", "--to", "start", "--execute", "--force", "-o", "json").json()
        assert doc["executed"] and doc["members"] == 2 and sorted(p["new"] for p in doc["partitions"]) == [0, 0], doc
        leat.wait_until("everything is read again", lambda: total() >= before + 202 and group()["lag"] == 0, 40, 0.2)
        leat.wait_until("both are back", lambda: len(group()["members"]) == 2, 30, 0.2)
        assert leat.end(*members) == [130, 130]


def coordinator_by_address():
    """Over TCP the requests of a group go where FindCoordinator says; an address that does not work from here is named."""
    with leat.Node(start=False) as node:
        elsewhere = leat.free_port()
        d = node.dir / "1" / "conf.d"
        d.mkdir(parents=True)
        (d / "test.conf").write_text(f"advertised.listeners=PLAINTEXT://127.0.0.1:{elsewhere}\noffsets.topic.num.partitions=2\n")
        node.start()
        node.mqctl("topic", "create", "t", "-p", "1")
        node.mqctl("produce", "t", input="a\nb\n")
        node.mqctl("consume", "t", "-G", "g", "-n", "1")
        direct = [leat.MQCTL, "-b", f"127.0.0.1:{node.port}"]
        r = leat.run([*direct, "group", "describe", "g"], check=False)
        assert r.code == 3 and f"127.0.0.1:{elsewhere}".encode() in r.err and b"advertised.listeners" in r.err, (r.code, r.err)
        assert leat.run([*direct, "topic", "list", "-o", "name"]).out == b"t\n", "topics do not need the coordinator"
        with forwarder(elsewhere, node.port) as connections:
            g = leat.run([*direct, "group", "describe", "g", "-o", "json"]).json()
            assert g["lag"] == 1 and g["lag_ms"] > 0, g
            assert len(connections) == 1, connections
            assert leat.run([*direct, "group", "list", "-o", "name"]).out == b"g\n"
            leat.run([*direct, "group", "reset", "g", "--to", "start", "--execute"])
            leat.run([*direct, "group", "delete", "g", "-y"])
            assert len(connections) == 4


@contextlib.contextmanager
def forwarder(port, to):
    """Carries connections of one port to another; yields the list of them."""
    listener = socket.create_server(("127.0.0.1", port))
    connections = []

    def carry(a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
        with contextlib.suppress(OSError):
            b.shutdown(socket.SHUT_WR)

    def accept():
        while True:
            try:
                a, _ = listener.accept()
            except OSError:
                return
            b = socket.create_connection(("127.0.0.1", to))
            connections.append((a, b))
            for pair in ((a, b), (b, a)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield connections
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for pair in connections:
            for s in pair:
                s.close()


# ---- offline ------------------------------------------------------------------------------------------------------------


def metadata_lost():
    """D35: meta/ is gone, log/ is not. A dump restores topics, ids, settings; the records and the groups' offsets are those of before."""
    with leat.Node("offsets.topic.num.partitions=2\n") as node:
        node.mqctl("topic", "create", "orders", "-p", "3", "-c", "retention=14d", "-c", "cleanup.policy=delete")
        node.mqctl("topic", "create", "gone")
        node.mqctl("produce", "orders", "-f", "%k:%v\n", input="".join(f"k{i}:v{i}\n" for i in range(500)))
        node.mqctl("consume", "orders", "-G", "g", "-n", "200")
        node.mqctl("topic", "delete", "gone", "-y")
        look = lambda: (node.mqctl("topic", "describe", "orders", "-o", "json").json(), hashlib.sha256(b"".join(sorted(node.mqctl("consume", "orders", "-r", ":end", "-o", "jsonl").out.splitlines()))).hexdigest(),
                        [(p["partition"], p["committed"]) for p in node.mqctl("group", "describe", "g", "-o", "json").json()["partitions"]],
                        node.status()["cluster_id"])
        before = look()
        strip = lambda seen: [{k: v for k, v in p.items() if k != "leader_epoch" and "age" not in k} for p in seen[0]["topics"][0]["partitions"]]
        for form in ([], ["-o", "json"]):
            r = node.mqctl("meta", "dump", *form, check=False)
            assert r.code == 6 and not r.out and b"sandbox stop" in r.err, (r.code, r.err)
        node.stop()
        dump = node.mqctl("meta", "dump").out
        (node.dir / "meta.json").write_bytes(dump)
        r = node.mqctl("meta", "restore", str(node.dir / "meta.json"), check=False)
        assert r.code == 8 and b"replace" in r.err, "metadata that is there was overwritten without asking"
        shutil.rmtree(node.data / "meta")
        r = leat.run([leat.MQCTL, "sandbox", "start", "--dir", node.dir], check=False)
        assert r.code != 0 and b"mqctl meta restore" in r.err, "a node without its metadata began anew over its log"
        for bad in (b"", b"{}", dump[: len(dump) // 2], dump.replace(b'"digest"', b'"tsegid"')):
            r = node.mqctl("meta", "restore", "-", input=bad, check=False)
            assert r.code == 1 and r.err, (bad[:20], r.code, r.err)
            assert not (node.data / "meta" / "CURRENT").exists(), "half a dump became the metadata"
        node.mqctl("meta", "restore", str(node.dir / "meta.json"))
        assert node.mqctl("meta", "dump").out == dump, "what was restored is not what was dumped"
        node.start()
        r = node.mqctl("meta", "restore", str(node.dir / "meta.json"), "-y", check=False)
        assert r.code == 6 and b"running" in r.err, (r.code, r.err)
        after = look()
        assert strip(after) == strip(before) and after[1:] == before[1:], (before, after)
        assert after[0]["topics"][0]["configs"] == before[0]["topics"][0]["configs"] and after[0]["topics"][0]["id"] == before[0]["topics"][0]["id"]
        assert node.mqctl("topic", "describe", "gone", check=False).code == 5
        node.mqctl("produce", "orders", input="and on it goes\n")
        node.mqctl("wait", "healthy")


def flipped_byte():
    """A byte rots: verify names partition, segment and offset; repair asks, keeps the bytes, drops that batch alone; both refuse a running node."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "t", "-p", "1")
        for i in range(5):
            node.mqctl("produce", "t", input=f"batch {i}\n")
        for verb in (["verify"], ["repair", "t-0", "-y"], ["dump", "t-0"]):
            r = node.mqctl("log", *verb, check=False)
            assert r.code == 6 and b"is running" in r.err and b"sandbox stop" in r.err, (verb, r.code, r.err)
        node.stop()
        batches = node.mqctl("log", "dump", "t-0", "-o", "json").json()["batches"]
        assert [b["base_offset"] for b in batches] == list(range(5)), batches
        segment = node.data / "log" / "t-0" / "00000000000000000000.log"
        whole = segment.read_bytes()
        at = batches[2]["position"] + batches[2]["size"] - 3
        segment.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        r = node.mqctl("log", "verify", "-o", "json", check=False)
        bad = r.json()["bad"]
        assert r.code == 1 and [(b["partition"], b["first_offset"], b["next_offset"], b["position"]) for b in bad] == [("t-0", 2, 3, batches[2]["position"])], bad
        r = node.mqctl("log", "verify", "-o", "table", check=False)
        assert b"t-0" in r.out and b"log repair t-0" in r.err, (r.out, r.err)
        r = node.mqctl("log", "dump", "t-0", check=False)
        assert r.code == 1 and b"crc BAD" in r.out or b"position" in r.err, (r.out, r.err)
        assert node.mqctl("log", "repair", "t-0", check=False, input="").code == 8 and segment.read_bytes()[at] == whole[at] ^ 1
        assert node.mqctl("log", "repair", "t-0", "--dry-run", check=False).code == 8
        t = on_terminal(node, "log", "repair", "t-0")
        assert b"1 damaged range" in t.read(until=b"[y/N]") and b".bad" in t.text, t.text
        t.say(b"y\n")
        assert t.end()[0] == 0, t.text
        assert node.mqctl("log", "verify", "--deep").code == 0
        assert list((node.data / "log" / "t-0").glob("*.bad*")), "the bytes are not kept"
        node.start()
        assert node.mqctl("consume", "t", "-r", ":end", "-f", "%o %v,").out == b"0 batch 0,1 batch 1,3 batch 3,4 batch 4,"
        node.mqctl("wait", "healthy")


leat.main(every_command, statuses, out_of_disk, waits_for_a_node, prompts, terminals, pipes_and_interrupts, bytes_and_formats, lag_in_time, reset_with_members,
          coordinator_by_address, metadata_lost, flipped_byte)
