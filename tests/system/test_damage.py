#!/usr/bin/env python3
"""Damage: indexes, segments, bytes, whole directories. What was acknowledged and is whole stays readable, what is damaged is named and never
served, `mqctl log repair` and `mqctl meta restore` bring the rest back."""
import os
import random
import shutil
import struct
import subprocess
import time

import leat


def pump(node, topic, seconds, rate=2000, writer=1):
    log = node.dir / f"w{writer}.log"
    p = node.producer(topic, writer, log, rate)
    time.sleep(seconds)
    assert leat.end(p) == [0]
    return log


def values_at(node, topic, offset, n=1):
    return node.mqctl("consume", topic, "-r", f"{offset}:{offset + n}", "-f", "%o %v\n").out


def damaged_indexes():
    """Noise, a cut entry, no file, entries that look well and lie: every offset and time is found as before."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "t", "-c", "segment.bytes=1M", "-c", "index.interval.bytes=4096")
        log = pump(node, "t", 1.5, 20000)
        assert len(node.segments("t")) > 3
        end = len(leat.History([log]).acked)
        places = random.Random(4).sample(range(end), 12)
        before = [values_at(node, "t", at) for at in places]
        node.stop()
        rng = random.Random(5)
        indexes, others = ([f for f in sorted((node.data / "log" / "t-0").iterdir()) if f.suffix in s] for s in ([".index"], [".timeindex", ".snapshot"]))
        assert len(indexes) >= 4
        for path, kind in [(f, i % 4) for some in (indexes, others) for i, f in enumerate(some)]:
            data = path.read_bytes()
            if kind == 0:
                path.write_bytes(rng.randbytes(max(8, len(data))))
            elif kind == 1:
                path.write_bytes(data[:-5] if len(data) > 5 else b"x")
            elif kind == 2:
                path.unlink()
            elif path.suffix == ".index":  # (relative offset, position): every entry points behind where it should
                path.write_bytes(b"".join(struct.pack(">II", o, p + 61) for o, p in struct.iter_unpack(">II", data)))
        node.start()
        assert [values_at(node, "t", at) for at in places] == before
        assert node.mqctl("consume", "t", "-r", "@-1h:end", "-n", "1", "-f", "%o\n").out == b"0\n"
        leat.check_log(leat.History([log]), leat.read_all(node, "t"))
        assert node.mqctl("status").code == 0


def torn_tail_and_flipped_byte():
    """Damage past the durable mark is a tail and is cut; before it, it is corruption: kept, reported, never served, repaired on command."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "t")
        log = pump(node, "t", 1)
        node.kill("supervisor")
        time.sleep(0.3)
        last = node.segments("t")[-1]
        end = valid_end(last)
        with open(last, "r+b") as f:
            f.seek(end)
            f.write(os.urandom(300))  # half a batch that was on its way
        node.start()
        leat.check_log(leat.History([log]), leat.read_all(node, "t"))
        node.stop()
        last = node.segments("t")[0]
        with open(last, "r+b") as f:
            f.seek(200)
            b = f.read(1)
            f.seek(200)
            f.write(bytes([b[0] ^ 0x40]))
        r = node.mqctl("log", "verify", "--all", check=False)
        assert r.code == 1 and b"t-0" in r.out + r.err, (r.code, r.out)
        node.start()
        r = node.mqctl("consume", "t", "-r", ":end", "-f", "%v", check=False)
        assert b"corrupt" in r.err.lower(), r.err[:300]
        node.mqctl("produce", "t", "-f", "%v\n", input="still online\n")
        node.stop()
        node.mqctl("log", "repair", "t-0", "-y")
        node.mqctl("log", "verify", "--all")
        node.start()
        assert node.mqctl("consume", "t", "-r", "-1", "-f", "%v").out == b"still online"


def truncated_segment():
    """A closed segment lost its second half: what is behind the cut is named as damage and stays readable; repair drops what is gone."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "t", "-c", "segment.bytes=1M")
        log = pump(node, "t", 1.5, 20000)
        node.mqctl("topic", "create", "other")
        whole = leat.read_all(node, "t")
        node.kill("supervisor")
        time.sleep(0.3)
        second = node.segments("t")[1]
        first_gone, next_segment = int(second.stem), int(node.segments("t")[2].stem)
        os.truncate(second, second.stat().st_size // 2)
        node.start()
        node.mqctl("produce", "other", "-f", "%v\n", input="online\n")
        r = node.mqctl("consume", "t", "-r", ":end", "-f", "%o\n", check=False)
        served = [int(o) for o in r.out.split()]
        assert r.code != 0 and b"corrupt" in r.err.lower(), (r.code, r.err[:300])
        assert served == list(range(len(served))) and first_gone < len(served) < next_segment, (first_gone, len(served), next_segment)
        leat.wait_until("the damage is in the status", lambda: b"damaged" in node.mqctl("status", check=False).out, 5)
        assert values_at(node, "t", next_segment) != b"", "what lies behind the damage cannot be read"
        node.mqctl("produce", "t", "-p", "0", "-f", "%v\n", input="still online\n")
        node.stop()
        assert node.mqctl("log", "verify", "t-0", check=False).code == 1
        node.mqctl("log", "repair", "t-0", "-y")
        node.mqctl("log", "verify", "--all")
        node.start()
        left = [int(o) for o in node.mqctl("consume", "t", "-r", ":end", "-f", "%o\n").out.split()]
        assert left == served + list(range(next_segment, len(whole) + 1)), "repair took more than what was gone"
        assert node.mqctl("status").code == 0
        assert len(leat.History([log]).acked) == len(whole)


def flipped_byte_behind_the_sync_point():
    """Without flush.messages=1 the last batches are not on stable storage yet: damage there is a torn tail, cut without an alarm."""
    with leat.Node("log.flush.scheduler.interval.ms=3600000\n") as node:
        node.mqctl("topic", "create", "lazy", "-c", "flush.messages=1000000")
        for i in range(10):
            node.mqctl("produce", "lazy", "-f", "%v\n", input=f"record {i}\n")
        node.kill("supervisor")  # before the checkpoint of every five seconds
        time.sleep(0.3)
        segment = node.segments("lazy")[0]
        with open(segment, "r+b") as f:
            f.seek(valid_end(segment) - 3)
            last = f.read(1)
            f.seek(-1, os.SEEK_CUR)
            f.write(bytes([last[0] ^ 1]))
        node.start()
        assert node.mqctl("consume", "lazy", "-r", ":end", "-f", "%v\n").out == b"".join(b"record %d\n" % i for i in range(9))
        assert node.mqctl("status").code == 0
        node.mqctl("produce", "lazy", "-f", "%v\n", input="next\n")
        assert node.mqctl("consume", "lazy", "-r", "-1", "-f", "%o %v").out == b"9 next"


def valid_end(path):
    data = path.read_bytes()
    at = 0
    while at + 61 <= len(data):
        size = int.from_bytes(data[at + 8:at + 12], "big")
        if size < 49 or at + 12 + size > len(data) or data[at + 16] != 2:
            break
        at += 12 + size
    return at


def storage_failure():
    """fsync fails: the broker ends with 74 rather than guess, is not started again by itself, the node says so and goes on with the rest; started
    again on a sound disk it has everything that was acknowledged, and clients go on by themselves."""
    if not shutil.which("strace"):
        leat.skip("strace is not installed")
    with leat.Node("offsets.topic.num.partitions=2\n") as node:
        node.mqctl("topic", "create", "t")
        log = node.dir / "w.log"
        producer, consumer = node.producer("t", 1, log, 1000), node.consumer("t", "g", node.dir / "c.log")
        leat.wait_until("records", lambda: log.exists() and log.read_text().count("\nA ") > 500)
        before = node.pids()
        sick = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,syncfs", "-e", "inject=fdatasync,syncfs:error=EIO",
                               "-p", str(before["broker"])], timeout=30, capture_output=True)  # ends with the broker
        assert sick.returncode == 0, sick.stderr
        leat.wait_until("the node says what failed", lambda: node.status()["state"] == "failed: storage", 10)
        r = node.mqctl("status", check=False)
        assert r.code == 1 and b"broker failed: storage" in r.out and b"journalctl -k" in r.out, (r.code, r.out)
        assert node.mqctl("check", "ready", check=False).code == 2
        time.sleep(2)
        now = node.pids()
        assert not now["broker"] and {**now, "broker": 0} == {**before, "broker": 0}, (before, now)
        assert producer.poll() is None and consumer.poll() is None
        acked = log.read_text().count("\nA ")
        node.mqctl("supervisor", "start", "broker")
        node.wait_ready()
        leat.wait_until("the producer goes on", lambda: log.read_text().count("\nA ") > acked + 500, 30)
        assert node.mqctl("status").code == 0
        assert leat.end(producer) == [0]
        history = leat.History([log])
        assert not history.failed, list(history.failed.values())[:3]
        leat.check_log(history, leat.read_all(node, "t"))
        assert leat.end(consumer) == [0]


def metadata_lost():
    """meta/ is gone while log/ is not: the node refuses to come up empty, and a dump brings the topics back with their records. A topic
    that the dump does not know yet is kept on the disk, also when somebody makes it anew."""
    with leat.Node("offsets.topic.num.partitions=2\n") as node:
        node.mqctl("topic", "create", "t")
        log = pump(node, "t", 0.5)
        node.mqctl("consume", "t", "-G", "g", "-n", "10")
        node.stop()
        dump = node.mqctl("meta", "dump").out
        node.start()
        node.mqctl("topic", "create", "later")
        node.mqctl("produce", "later", "-f", "%v\n", input="not in the dump\n")
        node.stop()
        shutil.rmtree(node.data / "meta")
        r = leat.run([leat.MQCTL, "sandbox", "start", "--dir", node.dir], check=False)
        assert r.code == 1 and b"status 65" in r.err and b"mqctl meta restore" in r.err, (r.code, r.err)
        node.mqctl("meta", "restore", input=dump)
        node.start()
        leat.check_log(leat.History([log]), leat.read_all(node, "t"))
        assert [p["committed"] for p in node.mqctl("group", "describe", "g", "-o", "json").json()["partitions"]] == [10]
        node.mqctl("topic", "create", "later")
        assert node.mqctl("consume", "later", "-r", ":end", "-f", "%v").out == b""
        kept = list((node.data / "log").glob("later-0.*-stray/*.log"))
        assert len(kept) == 1 and b"not in the dump" in kept[0].read_bytes(), kept


def log_disk_missing():
    """The log's disk is not there at a start: the node says so until the next one."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "t")
        node.stop()
        shutil.rmtree(node.data / "log")
        node.start()
        r = node.mqctl("status", check=False)
        assert r.code == 1 and b"was new at this start" in r.out and b"mounted" in r.out, (r.code, r.out)
        assert node.mqctl("check", "ready", check=False).code == 1
        node.stop()
        node.start()
        assert node.mqctl("status").code == 0


leat.main(damaged_indexes, torn_tail_and_flipped_byte, truncated_segment, flipped_byte_behind_the_sync_point, storage_failure, metadata_lost, log_disk_missing)
