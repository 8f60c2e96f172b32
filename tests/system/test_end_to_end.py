#!/usr/bin/env python3
"""The main job through mqctl and libleat: produce, consume, groups, restart; every command of the README."""
import json
import os
import subprocess
import time

import leat


def produce_consume():
    with leat.Node() as node:
        node.mqctl("topic", "create", "t", "-p", "1")
        node.mqctl("produce", "t", "-f", "%k:%v\n", input="k1:v1\nk2:v2\n")
        r = node.mqctl("consume", "t", "-n", "2", "-f", "%k=%v@%o\n")
        assert r.out == b"k1=v1@0\nk2=v2@1\n", r.out
        # binary values survive
        blob = bytes(range(256)) * 3
        node.mqctl("produce", "t", "-f", "%V{big32}%v", input=len(blob).to_bytes(4, "big") + blob)
        r = node.mqctl("consume", "t", "-r", "2:3", "-f", "%v")
        assert r.out == blob, (len(r.out), r.out[:20])
        r = node.mqctl("consume", "t", "-r", ":end", "-o", "jsonl")
        rows = [json.loads(x) for x in r.out.splitlines()]
        assert [x["offset"] for x in rows] == [0, 1, 2] and rows[0]["value"] == "v1", rows
        assert "base64" in rows[2]["value"], rows[2]
        # a line without its delimiter is refused with its number
        r = node.mqctl("produce", "t", "-f", "%k:%v\n", input="a:b\nnodelimiter\n", check=False)
        assert r.code == 1 and b"2" in r.err, (r.code, r.err)


def large_and_odd_records():
    with leat.Node() as node:
        node.mqctl("topic", "create", "big", "-p", "1", "-c", "max.message.bytes=20000000")
        for size in (0, 1, 1000, 16384, 262144, 1 << 20, 5 << 20, 16 << 20):
            body = os.urandom(min(size, 1 << 16)) * max(1, size // (1 << 16))
            body = body[:size]
            node.mqctl("produce", "big", "-f", "%V{big32}%v", input=len(body).to_bytes(4, "big") + body)
            r = node.mqctl("consume", "big", "-r", "-1", "-f", "%v")
            assert r.out == body, (size, len(r.out))
        r = node.mqctl("produce", "big", "-f", "%V{big32}%v", input=(30 << 20).to_bytes(4, "big") + bytes(30 << 20), check=False)
        assert r.code == 1 and b"large" in r.err.lower(), (r.code, r.err[:300])


def groups_share_and_resume():
    with leat.Node("offsets.topic.num.partitions=4\n") as node:
        node.mqctl("topic", "create", "t", "-p", "4")
        lines = "".join(f"k{i}:v{i}\n" for i in range(1000))
        node.mqctl("produce", "t", "-f", "%k:%v\n", input=lines)
        r = node.mqctl("consume", "t", "-G", "g", "-n", "400", "-f", "%v\n")
        first = r.out.split()
        assert len(first) == 400
        r = node.mqctl("consume", "t", "-G", "g", "-n", "600", "-f", "%v\n")
        both = first + r.out.split()
        assert sorted(both) == sorted(f"v{i}".encode() for i in range(1000)), len(set(both))
        rows = node.mqctl("group", "describe", "g", "-o", "json").json()["partitions"]
        assert sum(x["committed"] for x in rows) == 1000 and all(x["lag"] == 0 for x in rows), rows
        assert [g["group"] for g in node.mqctl("group", "list", "-o", "json").json()["groups"]] == ["g"]
        node.mqctl("group", "reset", "g", "--to", "start", "--execute", "-y")
        r = node.mqctl("consume", "t", "-G", "g", "-n", "1000", "-f", "%v\n")
        assert len(set(r.out.split())) == 1000
        node.mqctl("group", "delete", "g", "-y")
        assert node.mqctl("group", "list", "-o", "json").json()["groups"] == []


def restart_keeps_everything():
    with leat.Node("offsets.topic.num.partitions=4\n") as node:
        node.mqctl("topic", "create", "t", "-p", "3", "-c", "retention=14d")
        node.mqctl("produce", "t", "-f", "%k:%v\n", input="".join(f"k{i}:v{i}\n" for i in range(300)))
        node.mqctl("consume", "t", "-G", "g", "-n", "100")
        before = node.mqctl("topic", "describe", "t", "-o", "json").json()
        node.stop()
        assert node.mqctl("status", check=False).code == 3
        node.start()
        after = node.mqctl("topic", "describe", "t", "-o", "json").json()
        ends = lambda d: [p["end"] for p in d["topics"][0]["partitions"]]
        assert ends(before) == ends(after), (before, after)
        r = node.mqctl("consume", "t", "-G", "g", "-n", "200", "-f", "%v\n")
        assert len(set(r.out.split())) == 200
        assert node.mqctl("log", "verify", check=False).code != 0, "log verify must refuse a running node"
        node.stop()
        node.mqctl("log", "verify", "--all")


def administration():
    with leat.Node() as node:
        node.mqctl("topic", "create", "a", "-p", "2", "-c", "retention=1h")
        assert node.mqctl("topic", "create", "a", check=False).code == 6
        assert node.mqctl("topic", "create", "../evil", check=False).code in (1, 2)
        assert node.mqctl("topic", "create", "x" * 250, check=False).code in (1, 2)
        node.mqctl("topic", "alter", "a", "-p", "4")
        node.mqctl("topic", "alter", "a", "-c", "segment.bytes=2M")
        d = node.mqctl("topic", "describe", "a", "-o", "json").json()["topics"][0]
        assert len(d["partitions"]) == 4, d
        node.mqctl("produce", "a", "-f", "%v\n", input="1\n2\n3\n")
        assert node.mqctl("topic", "trim", "a", "--before", "end", "-y", check=False).code == 0
        assert node.mqctl("consume", "a", "-r", ":end").out == b""
        node.mqctl("topic", "delete", "a", "-y")
        assert node.mqctl("topic", "describe", "a", check=False).code == 5
        r = node.mqctl("config", "explain", "log.retention.hours")
        assert b"168" in r.out, r.out
        r = node.mqctl("topic", "plan", "--rate", "1000", "--size", "500", "--retention", "7d")
        assert b"302" in r.out, r.out
        for verb in (["status"], ["supervisor", "status"], ["topic", "list"], ["group", "list"], ["config", "show"], ["sandbox", "status", "--dir", node.dir]):
            assert isinstance(node.mqctl(*verb, "-o", "json").json(), dict), verb
        assert node.mqctl("check", "all").code == 0


def bad_configuration():
    with leat.Node(start=False) as node:
        for text, words in (("num.partition=4\n", (b"num.partition", b"num.partitions")), ("num.partitions=many\n", (b"num.partitions", b"many")),
                            ("log.segment.bytes=12parsec\n", (b"log.segment.bytes",)), ("listeners=PLAINTEXT://0.0.0.0:1\n", (b"allow.insecure",))):
            d = node.dir / "1" / "conf.d"
            d.mkdir(parents=True, exist_ok=True)
            (d / "test.conf").write_text("# first line\n" + text)
            r = leat.run([leat.MQCTL, "sandbox", "start", "--dir", node.dir, "--port", node.port], check=False)
            assert r.code != 0 and b"test.conf:2" in r.err + r.out, (text, r.code, r.err)
            for w in words:
                assert w in r.err + r.out, (text, w, r.err)


def fork_in_client():
    """workload forks nothing, but a client that does must not disturb its parent: tests/client covers -ECHILD; here fds."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "t")
        p = node.producer("t", 1, node.dir / "p.log", 500)
        time.sleep(0.5)
        assert leat.end(p) == [0]
        leat.wait_until("sessions end with their clients", lambda: sessions(node) <= 3)


def sessions(node):
    return node.status()["counters"]["broker"]["sessions"]


def quickstart():
    if os.environ.get("LEAT_BUILD_DIR") and leat.BUILD != leat.SOURCE / "build":
        leat.skip("quickstart uses build/")
    import tempfile
    with tempfile.TemporaryDirectory(prefix="leat-qs-") as d:
        env = {"XDG_STATE_HOME": d}
        try:
            for _ in range(2):
                r = subprocess.run([str(leat.SOURCE / "quickstart")], capture_output=True, timeout=120, env={**os.environ, **env})
                assert r.returncode == 0 and b"byte for byte" in r.stdout, (r.stdout[-1000:], r.stderr[-2000:])
            print(r.stdout.decode())
        finally:
            leat.run([leat.MQCTL, "sandbox", "stop"], env=env, check=False)


leat.main(produce_consume, large_and_odd_records, groups_share_and_resume, restart_keeps_everything, administration, bad_configuration,
          fork_in_client, quickstart)
