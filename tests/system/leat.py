"""What the system tests share: a node of its own in a temporary directory, mqctl, workloads, checkers.

Every test script is a program: exit 0 passed, 77 skipped (says why), else failed. Nodes listen on loopback ports that the
kernel had free; everything started is ended by pid, also when a test fails.
"""
import atexit
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

BUILD = pathlib.Path(os.environ.get("LEAT_BUILD_DIR", pathlib.Path(__file__).resolve().parents[2] / "build"))
SOURCE = pathlib.Path(__file__).resolve().parents[2]
MQCTL = BUILD / "mqctl" / "mqctl"
WORKLOAD = BUILD / "tests" / "system" / "workload"

# A login shell allows 1,024 descriptors, some tests hold 2,000 connections.
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16384), most))


def skip(why):
    print(f"SKIP: {why}")
    sys.exit(77)


def need_root():
    if os.geteuid() != 0:
        skip("needs root")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def free_base_port():
    for _ in range(50):
        p = free_port()
        try:
            for d in (0, 1, 2):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", p + d))
            return p
        except OSError:
            continue
    raise RuntimeError("no free ports")


def wait_until(what, fn, timeout=10.0, every=0.02):
    deadline = time.monotonic() + timeout
    while True:
        value = fn()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"timed out after {timeout} s: {what}")
        time.sleep(every)


class Result:
    def __init__(self, p):
        self.code, self.out, self.err = p.returncode, p.stdout, p.stderr

    def json(self):
        return json.loads(self.out)


def run(args, input=None, timeout=60, check=True, env=None):
    p = subprocess.run([str(a) for a in args], input=input, capture_output=True, timeout=timeout,
                       env={**os.environ, **(env or {})})
    if check and p.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, args))}: exit {p.returncode}\n{p.stdout.decode(errors='replace')[-2000:]}"
                             f"\n{p.stderr.decode(errors='replace')[-4000:]}")
    return Result(p)


class Node:
    """A sandbox of one node."""

    def __init__(self, conf="", directory=None, start=True):
        self.dir = self.histories = pathlib.Path(directory or tempfile.mkdtemp(prefix="leat-"))  # histories: the logs of workloads
        self.port = free_base_port()
        self.extra = conf
        self.own = directory is None
        self.children = []
        atexit.register(self.close)
        if conf:
            d = self.dir / "1" / "conf.d"
            d.mkdir(parents=True, exist_ok=True)
            (d / "test.conf").write_text(conf)
        if start:
            self.start()

    def start(self, timeout=60):
        r = run([MQCTL, "sandbox", "start", "--dir", self.dir, "--port", self.port, "-o", "json"], timeout=timeout)
        self.info = r.json()["nodes"][0]
        return self.info

    @property
    def socket(self):
        return self.info["socket"]

    @property
    def bootstrap(self):
        return "unix:" + self.info["socket"]

    @property
    def kafka(self):
        return self.info["kafka"]

    @property
    def data(self):
        return pathlib.Path(self.info["data_dir"])

    def segments(self, topic, partition=0):
        return sorted((self.data / "log" / f"{topic}-{partition}").glob("*.log"))

    def mqctl(self, *args, input=None, check=True, timeout=60):
        if isinstance(input, str):
            input = input.encode()
        return run([MQCTL, "--sandbox", self.dir, *args], input=input, check=check, timeout=timeout)

    def status(self):
        return self.mqctl("supervisor", "status", "-o", "json").json()

    def pids(self):
        return {c["role"]: c["pid"] for c in self.status()["processes"]}

    def kill(self, role, sig="KILL"):
        return run([MQCTL, "sandbox", "kill", "--dir", self.dir, "--node", "1", "--role", role, "--signal", sig])

    def wait_ready(self, timeout=30):
        self.mqctl("wait", "ready", "--timeout", f"{timeout}s", timeout=timeout + 5)

    def stop(self, timeout=60):
        return run([MQCTL, "sandbox", "stop", "--dir", self.dir], timeout=timeout)

    def workload(self, *args):
        p = subprocess.Popen([str(WORKLOAD), *map(str, args)])
        self.children.append(p)
        return p

    def producer(self, topic, writer, log, rate=2000, *conf):
        return self.workload("produce", self.bootstrap, topic, writer, rate, log, *conf)

    def consumer(self, topic, group, log, *conf):
        return self.workload("consume", self.bootstrap, topic, group, log, *conf)

    def close(self):
        atexit.unregister(self.close)
        for p in self.children:
            if p.poll() is None:
                p.kill()
                p.wait()
        try:
            run([MQCTL, "sandbox", "stop", "--dir", self.dir], timeout=30, check=False)
        except Exception:  # noqa: BLE001  last resort below
            pass
        if hasattr(self, "info"):
            try:
                os.kill(self.info["supervisor_pid"], signal.SIGKILL)
            except OSError:
                pass
        if self.own and not os.environ.get("LEAT_KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)

    def logs(self):
        return "".join(f"--- {p}\n" + p.read_text(errors="replace")[-4000:]
                       for p in sorted((self.dir / "1" / "log").glob("*")) if p.is_file())

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind and kind is not SystemExit:
            print(self.logs())
        self.close()


def end(*procs, timeout=60):
    """SIGTERM, wait; returns exit codes."""
    for p in procs:
        if p.poll() is None:
            p.terminate()
    return [p.wait(timeout) for p in procs]


class History:
    """Events of workload logs."""

    def __init__(self, paths):
        self.invoked, self.acked, self.failed, self.read, self.errors = set(), {}, {}, [], []
        for path in paths:
            reads = []
            for line in open(path, errors="replace"):
                if not line.endswith("\n"):
                    continue  # cut by a kill
                f = line.split()
                if f[0] == "I":
                    self.invoked.add((int(f[1]), int(f[2])))
                elif f[0] == "A":
                    self.acked[(int(f[1]), int(f[2]))] = (int(f[3]), int(f[4]))
                elif f[0] == "F":
                    self.failed[(int(f[1]), int(f[2]))] = line.strip()
                elif f[0] == "R":
                    assert f[3] != "BAD", f"K25 payload damaged: {line}"
                    reads.append((int(f[1]), int(f[2]), int(f[3]), int(f[4])))
                else:
                    self.errors.append(line.strip())
            self.read.append(reads)


def check_log(history, final):
    """K1 no acknowledged record lost, K2 offsets agree, K3 no duplicate, K4 nothing from nowhere, K5 order per writer.

    final: reads of a fresh consumer from the start of every partition."""
    at, where = {}, {}
    last = {}
    for p, o, w, s in final:
        assert (p, o) not in at, f"K2 offset {p}@{o} read twice"
        at[(p, o)] = (w, s)
        assert (w, s) not in where, f"K3 duplicate: writer {w} seq {s} at {where[(w, s)]} and {(p, o)}"
        where[(w, s)] = (p, o)
        assert (w, s) in history.invoked, f"K4 record from nowhere: {(w, s)}"
        assert last.get((p, w), 0) < s, f"K5 order: partition {p} writer {w}: {s} after {last[(p, w)]}"
        last[(p, w)] = s
    lost = [k for k in history.acked if k not in where]
    ends = {}
    for p, o in at:
        ends[p] = max(o, ends.get(p, 0))
    assert not lost, f"K1 {len(lost)} acknowledged records lost, first {[(k, history.acked[k]) for k in sorted(lost)[:5]]}, last offsets {ends}"
    for k, v in history.acked.items():
        assert v[1] < 0 or where[k] == v, f"K2 acknowledged at {v}, found at {where[k]}"
    for reads in history.read:
        for p, o, w, s in reads:
            assert at.get((p, o)) == (w, s), f"K8 read {(w, s)} at {p}@{o}, the log has {at.get((p, o))}"
    return len(final)


def read_all(node, topic, name="final"):
    path = node.histories / f"{name}.log"
    path.unlink(missing_ok=True)
    p = node.consumer(topic, "-", path)
    try:
        code = p.wait(120)
    except subprocess.TimeoutExpired as e:
        raise AssertionError(f"{topic} cannot be read to its end: {History([path]).errors[-3:]}") from e
    h = History([path])
    assert code == 0 and not h.errors, (code, h.errors[:3])
    return h.read[0]


def main(*tests):
    """Runs test functions in order (or those named on the command line)."""
    names = [a for a in sys.argv[1:] if not a.startswith("-")]
    failed = skipped = ran = 0
    for t in tests:
        if names and t.__name__ not in names:
            continue
        start = time.monotonic()
        try:
            t()
            print(f"ok   {t.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
        except SystemExit as e:
            if e.code != 77:
                raise
            skipped += 1
            continue
        except BaseException:  # noqa: BLE001  the trace is the report
            traceback.print_exc()
            print(f"FAIL {t.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
            failed += 1
        ran += 1
    sys.exit(1 if failed else 77 if skipped and not ran else 0)


def cycles(default):
    """--cycles N on the command line: CI runs the default, a person more."""
    for i, a in enumerate(sys.argv):
        if a == "--cycles":
            n = int(sys.argv[i + 1])
            del sys.argv[i:i + 2]
            return n
    return default
