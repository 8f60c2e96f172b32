#!/usr/bin/env python3
"""Limits and damage: full disk, file descriptors, sessions, damaged files. Clear errors, nothing lost, nothing crashes, memory bounded."""
import contextlib
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

import leat


def pump(node, topic, seconds, writer=1):
    log = node.dir / f"w{writer}.log"
    p = node.producer(topic, writer, log, 2000)
    time.sleep(seconds)
    assert leat.end(p) == [0]
    return log


def full_disk():
    """The file system fills: produce is refused with a clear error, reads and offsets go on; freed, it recovers by itself."""
    leat.need_root()
    mount = pathlib.Path(tempfile.mkdtemp(prefix="leat-full-"))
    image = mount.with_suffix(".img")
    with open(image, "wb") as f:
        f.truncate(400 << 20)
    leat.run(["mkfs.ext4", "-q", image])
    r = leat.run(["mount", "-o", "loop", image, mount], check=False)
    if r.code != 0:
        leat.skip("cannot mount a loop device")
    node = None
    try:
        node = leat.Node("disk.reserve=64M\nlog.pool.bytes=0\nlog.segment.bytes=8M\n", directory=mount / "n")
        node.mqctl("topic", "create", "t")
        log = pump(node, "t", 1)
        filler = mount / "filler"
        with open(filler, "wb") as f:
            st = os.statvfs(mount)
            os.posix_fallocate(f.fileno(), 0, st.f_bavail * st.f_frsize - (30 << 20))
        leat.wait_until("the node notices", lambda: any("disk.reserve" in why for why in node.status()["degraded"]), 15, 0.2)
        assert node.mqctl("check", "disk", check=False).code == 2
        r = node.mqctl("produce", "t", "-f", "%v\n", "-X", "delivery.timeout.ms=3000", input="refused\n", check=False)
        assert r.code == 1 and (b"disk" in r.err.lower() or b"storage" in r.err.lower()), (r.code, r.err)
        n = len(leat.read_all(node, "t"))
        assert n == len(leat.History([log]).acked), n
        assert node.mqctl("topic", "create", "t2", check=False).code == 1, "a new topic was accepted"
        node.mqctl("consume", "t", "-G", "g", "-n", "10")  # commits
        pids = node.pids()
        with open(filler, "ab") as f:  # and now to the last byte
            try:
                while True:
                    f.write(bytes(64 << 10))
                    f.flush()
            except OSError:
                pass
        with contextlib.suppress(OSError):
            f.close()
        time.sleep(2)
        assert len(leat.read_all(node, "t")) == n
        assert node.mqctl("group", "describe", "g", check=False).code == 0
        filler.unlink()
        leat.wait_until("produce works again", lambda: node.mqctl("produce", "t", "-f", "%v\n", "-X", "delivery.timeout.ms=3000", input="again\n", check=False).code == 0, 30, 0.5)
        assert node.pids() == pids, "a daemon died of a full disk"
    finally:
        if node:
            node.close()
        leat.run(["umount", "-l", mount], check=False)
        image.unlink()
        shutil.rmtree(mount, ignore_errors=True)


def segment_files(node, topic):
    return sorted((node.data / "log" / f"{topic}-0").glob("*.log"))


def damaged_indexes():
    with leat.Node("log.segment.bytes=1M\n") as node:
        node.mqctl("topic", "create", "t", "-c", "segment.bytes=1M")
        log = pump(node, "t", 3)
        node.stop()
        rng = random.Random(5)
        for path in list((node.data / "log" / "t-0").iterdir()):
            if path.suffix in (".index", ".timeindex", ".snapshot"):
                kind = rng.randrange(4)
                if kind == 0:
                    path.write_bytes(rng.randbytes(max(8, path.stat().st_size)))
                elif kind == 1:
                    path.write_bytes(path.read_bytes()[:-5] if path.stat().st_size > 5 else b"x")
                elif kind == 2:
                    path.unlink()
        node.start()
        leat.check_log(leat.History([log]), leat.read_all(node, "t"))
        node.mqctl("consume", "t", "-r", "@-1h:end", "-n", "10")


def torn_tail_and_flipped_byte():
    """Damage past the durable mark is a tail and is cut; before it, it is corruption: kept, reported, never served, repaired on command."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "t")
        log = pump(node, "t", 1)
        node.kill("supervisor")
        time.sleep(0.3)
        last = segment_files(node, "t")[-1]
        end = valid_end(last)
        with open(last, "r+b") as f:
            f.seek(end)
            f.write(os.urandom(300))  # half a batch that was on its way
        node.start()
        leat.check_log(leat.History([log]), leat.read_all(node, "t"))
        node.stop()
        last = segment_files(node, "t")[0]
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


def valid_end(path):
    data = path.read_bytes()
    at = 0
    while at + 61 <= len(data):
        size = int.from_bytes(data[at + 8:at + 12], "big")
        if size < 49 or at + 12 + size > len(data) or data[at + 16] != 2:
            break
        at += 12 + size
    return at


def records_and_names_at_the_edges():
    with leat.Node() as node:
        node.mqctl("topic", "create", "t")
        for size in (0, 1, 1048500):
            node.mqctl("produce", "t", "-f", "%v\n", input=b"a" * size + b"\n")
        r = node.mqctl("produce", "t", "-f", "%v\n", input=b"a" * 1048588 + b"\n", check=False)
        assert r.code == 1 and b"max.message.bytes" in r.err, (r.code, r.err[:300])
        node.mqctl("topic", "create", "big", "-c", "max.message.bytes=40M")  # a batch far larger than a session's arena
        node.mqctl("produce", "big", "-f", "%v\n", input=b"b" * 30_000_000 + b"\n")
        assert [len(v) for v in node.mqctl("consume", "t", "-r", ":end", "-f", "%v\n").out.split(b"\n")[:-1]] == [0, 1, 1048500]
        assert node.mqctl("consume", "big", "-r", ":end", "-f", "%v").out == b"b" * 30_000_000
        # mqctl knows these names for bad; another client asks the broker
        before = sorted(os.listdir(node.data / "log"))
        for name in ("../x", "..", ".", "a/b", "/etc/x", "a" * 250, "x\ny", "x\0y", ""):
            assert create_by_hand(node, name) == 17, repr(name)  # INVALID_TOPIC_EXCEPTION
        assert sorted(os.listdir(node.data / "log")) == before
        assert create_by_hand(node, "a" * 249) == 0


def create_by_hand(node, name):
    """CreateTopics version 2 with one topic; returns its error."""
    def text(s):
        return struct.pack(">h", len(s)) + s.encode()
    body = struct.pack(">hhi", 19, 2, 7) + text("test") + struct.pack(">i", 1) + text(name) + struct.pack(">ihiiib", 1, 1, 0, 0, 10000, 0)
    with socket.create_connection(tuple(node.kafka.split(":")), timeout=20) as s:
        s.sendall(struct.pack(">i", len(body)) + body)
        f = s.makefile("rb")
        answer = f.read(struct.unpack(">i", f.read(4))[0])
    size = struct.unpack(">h", answer[12:14])[0]
    assert answer[14:14 + size].decode() == name
    return struct.unpack(">h", answer[14 + size:16 + size])[0]


def many_sessions():
    with leat.Node("max.sessions=1200\n") as node:
        node.mqctl("topic", "create", "t")
        pid = node.pids()["broker"]
        before = rss(pid)
        fds = len(os.listdir(f"/proc/{pid}/fd"))
        p = subprocess.Popen([leat.BUILD / "tests" / "system" / "sessions", node.bootstrap, "1000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert p.stdout.readline().strip() == b"1000", "1,000 sessions"
        grown = rss(pid) - before + rss(p.pid)
        assert grown < 1024, f"1,000 idle sessions cost {grown:.0f} MiB"
        node.mqctl("produce", "t", "-f", "%v\n", input="x\n")
        p.kill()
        p.wait()
        leat.wait_until("fds are back", lambda: len(os.listdir(f"/proc/{pid}/fd")) <= fds + 8, 10)
        print(f"  1,000 sessions: {grown:.0f} MiB", flush=True)


def rss(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0


def session_limit_is_a_clear_refusal():
    with leat.Node("max.sessions=20\n") as node:
        p = subprocess.run([leat.BUILD / "tests" / "system" / "sessions", node.bootstrap, "40"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        assert b"max.sessions" in p.stderr, p.stderr[:300]
        node.wait_ready()


def file_descriptors_run_out():
    """Clients take every descriptor that the broker may have: they are refused, while those inside go on, new segments included."""
    with leat.Node("log.segment.bytes=2M\nlog.pool.bytes=0\n") as node:
        node.mqctl("topic", "create", "t")
        log = node.dir / "w.log"
        producer = node.producer("t", 1, log, 30000)
        time.sleep(0.5)
        pid = node.pids()["broker"]
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 100, hard))
        before = len(segment_files(node, "t"))
        r = subprocess.run([leat.BUILD / "tests" / "system" / "sessions", node.bootstrap, "40"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        assert r.returncode == 1 and b"file descriptors" in r.stderr, (r.returncode, r.stderr)
        holders = [socket.create_connection(tuple(node.kafka.split(":"))) for _ in range(40)]  # the kernel accepts for the broker
        time.sleep(2)
        assert node.pids()["broker"] == pid, "the broker died for want of descriptors"
        assert producer.poll() is None
        assert len(segment_files(node, "t")) > before, "no new segment was begun"
        for s in holders:
            s.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        node.mqctl("topic", "create", "t2")
        node.mqctl("produce", "t2", "-f", "%v\n", input="x\n")
        assert leat.end(producer) == [0]
        leat.check_log(leat.History([log]), leat.read_all(node, "t"))


def more_partitions_than_descriptors():
    """800 partitions in use with 90 descriptors to spare: every record is taken and read, over TCP and locally, and nothing ends."""
    try:
        from confluent_kafka import Consumer, Producer, TopicPartition
    except ImportError:
        leat.skip("python3-confluent-kafka is not installed")
    n = 800
    with leat.Node("log.pool.bytes=0\n") as node:
        node.mqctl("topic", "create", "t", "-p", n)
        pid = node.pids()["broker"]
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 90, hard))
        bad = []
        p = Producer({"bootstrap.servers": node.kafka, "enable.idempotence": True, "linger.ms": 5})
        for turn in range(3):
            for i in range(n):
                p.produce("t", f"{turn}-{i}", partition=i, on_delivery=lambda e, m: bad.append(e) if e else None)
            assert p.flush(60) == 0 and not bad, bad[:2]
        c = Consumer({"bootstrap.servers": node.kafka, "group.id": "g", "enable.auto.commit": False})
        c.assign([TopicPartition("t", i, 0) for i in range(n)])
        got = []
        end = time.monotonic() + 60
        while len(got) < 3 * n and time.monotonic() < end:
            for m in c.consume(1000, 1):
                assert not m.error(), m.error()
                got.append(m.value().decode())
        c.close()
        want = sorted(f"{turn}-{i}" for turn in range(3) for i in range(n))
        assert sorted(got) == want, (len(got), len(want))
        local = node.mqctl("consume", "t", "-r", ":end", "-f", "%v\n").out.decode().split()
        del p
        assert sorted(local) == want, (len(local), len(want))
        assert node.pids()["broker"] == pid, "the broker died for want of descriptors"


def clients_killed_and_stopped():
    """Producers and consumers killed or stopped at random moments: others are not held up, nothing is lost or doubled."""
    with leat.Node("offsets.topic.num.partitions=2\n") as node:
        node.mqctl("topic", "create", "t", "-p", "2")
        steady = node.producer("t", 1, node.dir / "steady.log", 1000)
        rng = random.Random(9)
        logs = [node.dir / "steady.log"]
        for i in range(40):
            log = node.dir / f"v{i}.log"
            logs.append(log)
            victim = node.producer("t", 10 + i, log, 0) if i % 2 else node.consumer("t", "-" if i % 4 else "g", node.dir / f"c{i}.log")
            time.sleep(rng.uniform(0.0, 0.12))
            if i % 5 == 0:
                victim.send_signal(19)  # SIGSTOP
                time.sleep(0.3)
            victim.kill()
            victim.wait()
        time.sleep(0.5)
        assert steady.poll() is None
        assert leat.end(steady) == [0]
        history = leat.History([p for p in logs if p.exists()])
        final = leat.read_all(node, "t")
        # a killed producer may have handed over records that its cut log does not name: they are checked for order and doubles only
        history.invoked |= {(w, s) for _, _, w, s in final}
        leat.check_log(history, final)


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


def state_of(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def acked(path):
    return sum(line.startswith("A") for line in open(path, errors="replace")) if path.exists() else 0


def clients_at_every_stage():
    """A client is stopped with a claim half written, with a batch that is not sent, with one that is not acknowledged, with records in
    its hands, with a forked child beside it. Others go on meanwhile. Killed there, its session goes; continued, it works on."""
    with leat.Node("offsets.topic.num.partitions=2\n") as node:
        node.mqctl("topic", "create", "t", "-p", "2")
        steady_log = node.dir / "steady.log"
        steady = node.producer("t", 1, steady_log, 1000)
        leat.wait_until("records to read", lambda: acked(steady_log) > 300)
        sessions = node.status()["counters"]["broker"]["sessions"]
        logs, reads = [steady_log], []
        for i, (stage, lives) in enumerate((s, lives) for s in ("claim", "open", "ack", "fork", "hold") for lives in (True, False)):
            log = node.dir / f"{stage}-{lives}.log"
            if stage == "hold":
                reads.append(log)
                client = node.consumer("t", f"holders-{lives}", log, "stop.at=hold")
            else:
                logs.append(log)
                client = node.producer("t", 10 + i, log, 0, f"stop.at={stage}", f"linger.ms={1000 if stage == 'open' else 0}")
            leat.wait_until(f"a client stopped at {stage}", lambda: state_of(client.pid) == "T", 20)
            before = acked(steady_log)
            leat.wait_until(f"others go on beside a client stopped at {stage}", lambda: acked(steady_log) > before + 500, 10)
            if lives:
                handed = acked(log)
                client.send_signal(signal.SIGCONT)
                if stage == "hold":
                    leat.wait_until("it reads on", lambda: len(log.read_bytes().splitlines()) > 500, 20)
                else:
                    leat.wait_until(f"it goes on after {stage}", lambda: acked(log) > handed + 200, 20)
                assert leat.end(client) == [0], stage
                assert b"E " not in log.read_bytes(), (stage, leat.History([log]).errors[:3])
            else:
                children = pathlib.Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text().split()
                assert bool(children) == (stage == "fork"), (stage, children)
                client.kill()
                client.wait()
                leat.wait_until(f"the session of a client killed at {stage} is gone",  # also while a child holds its socket
                                lambda: node.status()["counters"]["broker"]["sessions"] <= sessions, 10)
                for child in children:
                    assert state_of(child) in "SR", "the child was refused and lives"
                    os.kill(int(child), signal.SIGKILL)
        assert leat.end(steady) == [0]
        history = leat.History(logs)
        assert not history.failed, list(history.failed.values())[:3]
        for log in reads:
            history.read += leat.History([log]).read
        leat.check_log(history, leat.read_all(node, "t"))


leat.main(full_disk, damaged_indexes, torn_tail_and_flipped_byte, records_and_names_at_the_edges, many_sessions, session_limit_is_a_clear_refusal,
          file_descriptors_run_out, more_partitions_than_descriptors, clients_killed_and_stopped, clients_at_every_stage, metadata_lost, log_disk_missing)
