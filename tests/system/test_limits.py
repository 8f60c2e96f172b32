#!/usr/bin/env python3
"""Limits: full disk, file descriptors, sessions, sizes, clients that die. Clear errors, nothing lost, nothing crashes, memory bounded."""
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


def acked(path):
    return sum(line.startswith("A") for line in open(path, errors="replace")) if path.exists() else 0


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
    node, logs = None, pathlib.Path(tempfile.mkdtemp(prefix="leat-full-logs-"))
    try:
        node = leat.Node("disk.reserve=64M\nlog.pool.bytes=0\nlog.segment.bytes=8M\n", directory=mount / "n")
        node.mqctl("topic", "create", "t")
        node.mqctl("topic", "create", "side")
        node.histories = logs  # not on the disk that fills
        log = logs / "w.log"
        steady = node.producer("t", 1, log, 500)  # goes on asking while it is refused
        leat.wait_until("records", lambda: acked(log) > 500)
        filler = mount / "filler"
        with open(filler, "wb") as f:
            st = os.statvfs(mount)
            os.posix_fallocate(f.fileno(), 0, st.f_bavail * st.f_frsize - (30 << 20))
        leat.wait_until("the node notices", lambda: any("disk.reserve" in why for why in node.status()["degraded"]), 15, 0.2)
        assert node.mqctl("check", "disk", check=False).code == 2
        r = node.mqctl("produce", "side", "-f", "%v\n", "-X", "delivery.timeout.ms=3000", input="refused\n", check=False)
        assert r.code == 1 and (b"disk" in r.err.lower() or b"storage" in r.err.lower()), (r.code, r.err)
        n = acked(log)
        leat.check_log(leat.History([log]), leat.read_all(node, "t"))
        assert node.mqctl("topic", "create", "t2", check=False).code == 1, "a new topic was accepted"
        node.mqctl("consume", "t", "-G", "g", "-n", "10")  # commits
        pids = node.pids()
        with contextlib.suppress(OSError), open(filler, "ab", buffering=0) as f:  # and now to the last byte
            while f.write(bytes(64 << 10)):
                pass
        time.sleep(2)
        assert acked(log) == n, "a record was acknowledged on a full disk"
        leat.check_log(leat.History([log]), leat.read_all(node, "t"))
        assert [p["committed"] for p in node.mqctl("group", "describe", "g", "-o", "json").json()["partitions"]] == [10]
        filler.unlink()
        leat.wait_until("the refused producer goes on by itself", lambda: acked(log) > n + 500, 30, 0.2)
        node.mqctl("produce", "side", "-f", "%v\n", input="again\n")
        assert node.mqctl("status").code == 0 and node.pids() == pids, "a daemon died of a full disk"
        assert leat.end(steady) == [0]
        history = leat.History([log])
        assert not history.failed, list(history.failed.values())[:3]
        leat.check_log(history, leat.read_all(node, "t"))
    finally:
        if node:
            node.close()
        leat.run(["umount", "-l", mount], check=False)
        image.unlink()
        shutil.rmtree(mount, ignore_errors=True)
        shutil.rmtree(logs, ignore_errors=True)


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
        node.mqctl("wait", "healthy", "--timeout", "10s")
        p = subprocess.Popen([leat.BUILD / "tests" / "system" / "sessions", node.bootstrap, "20"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert p.stdout.readline().strip() == b"20"
        leat.wait_until("the status says it", lambda: b"max.sessions" in node.mqctl("status", check=False).out, 5)
        p.communicate()
        node.mqctl("wait", "healthy", "--timeout", "10s")


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
        before = len(node.segments("t"))
        r = subprocess.run([leat.BUILD / "tests" / "system" / "sessions", node.bootstrap, "40"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        assert r.returncode == 1 and b"file descriptors" in r.stderr, (r.returncode, r.stderr)
        holders = [socket.create_connection(tuple(node.kafka.split(":"))) for _ in range(40)]  # the kernel accepts for the broker
        time.sleep(2)
        assert node.pids()["broker"] == pid, "the broker died for want of descriptors"
        assert producer.poll() is None
        leat.wait_until("a new segment is begun", lambda: len(node.segments("t")) > before, 30, 0.2)
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


def state_of(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def clients_at_every_stage():
    """A client is stopped with a claim half written, with a batch that is not sent, with one that is not acknowledged, with records in
    its hands, with a forked child beside it. Others go on meanwhile. Killed there, its session goes; continued, it works on."""
    with leat.Node("offsets.topic.num.partitions=2\n") as node:
        node.mqctl("topic", "create", "t", "-p", "2")
        steady_log = node.dir / "steady.log"
        steady = node.producer("t", 1, steady_log, 1000)
        leat.wait_until("records to read", lambda: acked(steady_log) > 300)
        sessions = 3  # controller, coordinator, the steady producer
        leat.wait_until("the count is up to date", lambda: node.status()["counters"]["broker"]["sessions"] == sessions, 10)
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


leat.main(full_disk, records_and_names_at_the_edges, many_sessions, session_limit_is_a_clear_refusal,
          file_descriptors_run_out, more_partitions_than_descriptors, clients_killed_and_stopped, clients_at_every_stage)
