#!/usr/bin/env python3
"""Power cuts: the node's data lives on a disk that forgets what was not flushed (lossydisk). Every record acknowledged under
flush.messages=1 must be there afterwards (K1-K5). Half of the cycles drop every unflushed block, half keep a random half of them.
`--cycles 50` for the long run. And a disk that is slow."""
import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time

import leat

CYCLES = leat.cycles(10)
LOSSYDISK = leat.BUILD / "tests" / "system" / "lossydisk"


class Disk:
    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="leat-disk-"))
        self.image, self.fuse_mount, self.mount = self.dir / "image", self.dir / "fuse", self.dir / "mnt"
        self.fuse_mount.mkdir()
        self.mount.mkdir()
        self.proc = self.loop = None

    def attach(self, seed, fresh=False):
        self.proc = subprocess.Popen([LOSSYDISK, self.image, "768", str(seed), self.fuse_mount])
        leat.wait_until("the lossy disk serves", (self.fuse_mount / "disk").exists, 10)
        self.loop = leat.run(["losetup", "--show", "--find", self.fuse_mount / "disk"]).out.decode().strip()
        if fresh:
            leat.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", self.loop])
        leat.run(["mount", self.loop, self.mount])

    def cut(self, keep_half):
        self.proc.send_signal(signal.SIGUSR2 if keep_half else signal.SIGUSR1)
        time.sleep(0.05)

    def detach(self):
        if self.loop:
            leat.run(["umount", "-l", self.mount], check=False)
            leat.run(["losetup", "-d", self.loop], check=False)
            leat.wait_until("the loop device is free", lambda: not leat.run(["losetup", self.loop], check=False).out, 60)
            self.loop = None
        if self.proc:
            leat.run(["umount", "-l", self.fuse_mount], check=False)
            try:
                self.proc.wait(10)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
            self.proc = None

    def close(self):
        self.detach()
        shutil.rmtree(self.dir, ignore_errors=True)


def kill_all(pids):
    for p in pids:
        try:
            os.kill(p, signal.SIGKILL)
        except OSError:
            pass
    leat.wait_until("all processes are gone", lambda: not any(pathlib.Path(f"/proc/{p}").exists() for p in pids), 20)


def power_cuts():
    leat.need_root()
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        leat.skip("needs /dev/fuse and loop devices")
    if not LOSSYDISK.exists():
        leat.skip("lossydisk was not built (libfuse3-dev)")
    disk = Disk()
    logs = pathlib.Path(tempfile.mkdtemp(prefix="leat-power-"))
    rng = random.Random(11)
    paths, node = [], None
    try:
        disk.attach(1, fresh=True)
        conf = "offsets.topic.num.partitions=2\nlog.segment.bytes=4M\nlog.pool.bytes=0\nlog.retention.bytes=-1\n"
        node = leat.Node(conf, directory=disk.mount / "node")
        node.mqctl("topic", "create", "t", "-p", "3")
        for cycle in range(CYCLES):
            mine = [logs / f"{cycle}-{w}.log" for w in (1, 2)]
            paths += mine
            clients = [node.producer("t", cycle * 2 + w + 1, mine[w], rng.choice([300, 3000])) for w in (0, 1)]
            clients.append(node.consumer("t", "g", logs / f"{cycle}-c.log", "auto.commit.interval.ms=50"))
            time.sleep(rng.uniform(0.3, 1.2))
            status = node.status()
            pids = [status["pid"]] + [c["pid"] for c in status["processes"]]
            disk.cut(keep_half=cycle % 2 == 1)
            kill_all(pids)
            for c in clients:
                c.kill()
                c.wait()
            disk.detach()
            disk.attach(cycle + 2)
            node.start()
            node.wait_ready()
            history = leat.History(paths)
            final = leat.read_all(node, "t", f"final-{cycle}")
            n = leat.check_log(history, final)
            state = node.status()
            assert not state.get("logs_damaged"), state
        print(f"  {CYCLES} power cuts, {n} records in the log, {len(history.acked)} acknowledged", flush=True)
    except BaseException:
        if node:
            print(node.logs())
            print(leat.run(["sh", "-c", f"ls -l {node.data}/log/t-*; cat {node.data}/log/recovery-point-offset-checkpoint"], check=False).out.decode())
        raise
    finally:
        if node:
            node.close()
        disk.close()
        shutil.rmtree(logs, ignore_errors=True)


@contextlib.contextmanager
def slow(node, call, seconds):
    """Each such system call of the broker takes that long."""
    if not shutil.which("strace"):
        leat.skip("strace is not installed")
    pid = node.pids()["broker"]
    p = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:delay_enter={seconds}s", "-p", str(pid)])
    leat.wait_until("every thread is traced", lambda: all(f"TracerPid:\t{p.pid}\n" in (t / "status").read_text()
                                                          for t in pathlib.Path(f"/proc/{pid}/task").iterdir()))
    try:
        yield
    finally:
        p.terminate()
        try:
            p.wait(20)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


def slow_creation():
    """Whoever makes a topic waits for the disk to know it; nobody else does, and a name that comes and goes leaves nothing."""
    with leat.Node("log.pool.bytes=0\n") as node:
        node.mqctl("topic", "create", "a")
        node.mqctl("produce", "a", input="x\n")
        with slow(node, "syncfs", 6):
            start = time.monotonic()
            making = subprocess.Popen([leat.MQCTL, "--sandbox", node.dir, "topic", "create", "b"], stdout=subprocess.DEVNULL)
            time.sleep(0.3)
            while time.monotonic() - start < 2.5:
                node.mqctl("produce", "a", input="x\n")
            assert time.monotonic() - start < 5, "a topic under way held up a producer"
            assert making.poll() is None, "the answer came before the directory was durable"
            for _ in range(3):
                node.mqctl("topic", "delete", "b", "-y", check=False)  # its directory is still being made
                node.mqctl("topic", "create", "b", check=False, timeout=30)
            making.wait(30)
        node.mqctl("produce", "b", input="y\n")
        assert node.mqctl("consume", "b", "-r", ":end", "-f", "%v\n").out == b"y\n"
        folders = [f.name for f in (node.data / "log").glob("b-*") if not f.name.endswith("-delete")]
        assert folders == ["b-0"], folders


def slow_disk():
    """A disk that takes its time is named while it does, and no longer than needed; nothing restarts because of it."""
    with leat.Node("log.pool.bytes=0\n") as node:
        node.mqctl("topic", "create", "a")
        pids = node.pids()

        def reasons():
            return " ".join(p["problem"] for p in leat.json.loads(node.mqctl("status", "-o", "json", check=False).out)["problems"])

        assert "slow disk" not in reasons()
        with slow(node, "fdatasync,syncfs", 7):
            making = subprocess.Popen([leat.MQCTL, "--sandbox", node.dir, "produce", "a"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
            making.communicate(b"x\n", timeout=60)
            leat.wait_until("the slow disk is named", lambda: "slow disk: a sync round took" in reasons(), 30)
        assert making.returncode == 0
        assert b"iostat" in node.mqctl("status", check=False).out + node.mqctl("status", check=False).err
        assert node.pids() == pids


def slow_compaction():
    """The cleaner writes and syncs on a thread of its own."""
    with leat.Node("log.pool.bytes=0\nlog.cleaner.backoff.ms=100\nlog.flush.interval.messages=1000000\n") as node:
        node.mqctl("topic", "create", "a")
        node.mqctl("topic", "create", "c", "-c", "cleanup.policy=compact", "-c", "segment.bytes=20000", "-c", "min.compaction.lag.ms=1h")
        node.mqctl("produce", "a", input="x\n")
        for i in range(3):
            node.mqctl("produce", "c", "-f", "%k:%v\n", input="".join(f"k{k}:{'x' * 100}{i}\n" for k in range(300)))
        with slow(node, "fdatasync", 3):
            node.mqctl("topic", "alter", "c", "-c", "min.compaction.lag.ms=0", "-c", "min.cleanable.dirty.ratio=0.01")
            start = time.monotonic()
            output = node.data / "log" / "c-0"
            leat.wait_until("the cleaner writes", lambda: list(output.glob("*.cleaned")), 10)
            while list(output.glob("*.cleaned")) and time.monotonic() - start < 30:
                begun = time.monotonic()
                node.mqctl("produce", "a", input="x\n")
                assert time.monotonic() - begun < 2, "the cleaner held up a producer"
        leat.wait_until("compacted", lambda: len(node.mqctl("consume", "c", "-r", ":end", "-f", "%k\n").out.split()) < 600, 20, 0.2)


def slow_trim():
    """Deleted records stay deleted once that was answered; the others need not wait for it."""
    with leat.Node("log.pool.bytes=0\nlog.flush.interval.messages=1000000\n") as node:
        for t in ("a", "t"):
            node.mqctl("topic", "create", t)
            node.mqctl("produce", t, input="x\n" * 100)
        with slow(node, "fsync,fdatasync", 1):  # several files, twice each
            start = time.monotonic()
            trimming = subprocess.Popen([leat.MQCTL, "--sandbox", node.dir, "topic", "trim", "t", "--before", "60", "-y"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.3)
            while trimming.poll() is None and time.monotonic() - start < 30:
                begun = time.monotonic()
                node.mqctl("produce", "a", input="x\n")
                assert time.monotonic() - begun < 2, "a topic being trimmed held up a producer"
            assert trimming.wait(30) == 0 and time.monotonic() - start > 2, "the answer came before the checkpoint"
        node.kill("broker")
        node.wait_ready()
        assert node.mqctl("consume", "t", "-r", "start:+1", "-f", "%o\n").out == b"60\n"


leat.main(power_cuts, slow_disk, slow_creation, slow_compaction, slow_trim)
