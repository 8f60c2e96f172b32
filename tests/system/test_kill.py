#!/usr/bin/env python3
"""kill -9 of each daemon under load: nothing acknowledged is lost, nothing doubled, order kept, committed offsets never go back,
clients recover by themselves. Checkers K1-K6, K8, K14, K25 of docs/testing.md. `--cycles 100` for the long run.

broker, controller, consumer_coord, supervisor   a kill per cycle, later than a second after READY
early                                            kills before READY and soon after it, of three daemons at once, four in a row each:
                                                 one less than a crash loop
early_supervisor                                 the same of the supervisor, which nobody counts
crash_loop                                       five in a row, of a running node and at its start
"""
import os
import pathlib
import random
import subprocess
import time

import leat

CYCLES = leat.cycles(25)
CHILDREN = ("controller", "broker", "consumer-coord")
IN_A_ROW = 4  # deaths before READY or within 1 s after it; the fifth is the crash loop


def is_alive(pid):
    """A zombie is not: who reaps it may take his time."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def alive(pids):
    return [p for p in pids if is_alive(p)]


def words(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return [""]


def kill(pid):
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass


class Load:
    """A node, two producers and a group of two consumers at work."""

    def __init__(self, name):
        self.name, self.kills, self.committed = name, 0, {}
        self.rng = random.Random(7)
        self.node = leat.Node("offsets.topic.num.partitions=4\n")

    def __enter__(self):
        node = self.node.__enter__()
        node.mqctl("topic", "create", "orders", "-p", "4")
        self.logs = {n: node.dir / f"{n}.log" for n in ("p1", "p2", "c1", "c2")}
        self.producers = [node.producer("orders", i, self.logs[f"p{i}"], 1500) for i in (1, 2)]
        self.consumers = [node.consumer("orders", "g", self.logs[f"c{i}"], "auto.commit.interval.ms=100") for i in (1, 2)]
        leat.wait_until("the clients are at work", self.is_working, 20, 0.1)
        return self

    def __exit__(self, kind, *rest):
        try:
            if kind is None:
                self.finish()
        finally:
            self.node.__exit__(kind, *rest)

    def is_working(self):
        group = self.node.mqctl("group", "describe", "g", "-o", "json", check=False)
        return group.code == 0 and len(group.json()["members"]) == 2 and all("\nA " in self.logs[p].read_text() for p in ("p1", "p2"))

    def supervisor_pid(self):
        """Also of one that has only just begun."""
        for p in pathlib.Path("/proc").iterdir():
            if p.name.isdigit():
                w = words(p.name)
                if w[0].endswith("leat-supervisor") and any(str(self.node.dir) in x for x in w):
                    return int(p.name)
        return None

    def child_pid(self, supervisor, role):
        """Of a process that runs the daemon's program, ready or not."""
        try:
            children = pathlib.Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        except OSError:
            return None
        return next((int(p) for p in children if words(p)[0].endswith(f"leat-{role}")), None)

    def kill_next(self, supervisor, role, last, delay):
        """Waits for the process after `last` and kills it `delay` seconds later. Returns its pid."""
        def other():
            pid = self.child_pid(supervisor, role)
            return pid if pid != last else None
        pid = leat.wait_until(f"a new {role}", other, 15, 0.002)
        time.sleep(delay)
        kill(pid)
        self.kills += 1
        return pid

    def check_clients(self):
        for p in self.producers + self.consumers:
            assert p.poll() is None, f"a client ended by itself: {p.args} -> {p.returncode}: {self.errors()}"

    def errors(self):
        return [line for log in self.logs.values() if log.exists() for line in log.read_text().splitlines() if line.startswith("E")][-5:]

    def group(self):
        return self.node.mqctl("group", "describe", "g", "-o", "json").json()["partitions"]

    def check_offsets(self):
        """K14: offsets of the group never go back."""
        for row in self.group():
            key, now = row["partition"], row["committed"]
            if now is not None and now >= 0:
                assert now >= self.committed.get(key, 0), f"K14 offset of {key} went from {self.committed[key]} to {now}"
                self.committed[key] = now

    def finish(self):
        time.sleep(1)
        codes = leat.end(*self.producers)
        assert codes == [0, 0], codes
        history = leat.History([self.logs["p1"], self.logs["p2"]])
        assert not history.failed, list(history.failed.values())[:3]
        assert len(history.acked) > 1000, len(history.acked)
        final = leat.read_all(self.node, "orders")
        n = leat.check_log(history, final)
        # K16: the group catches up
        leat.wait_until("the group has no lag", lambda: len(self.group()) == 4 and all(r["lag"] == 0 for r in self.group()), 30, 0.2)
        codes = leat.end(*self.consumers)
        assert codes == [0, 0], codes
        reads = leat.History([self.logs["c1"], self.logs["c2"]])
        seen = {(p, o): (w, s) for one in reads.read for p, o, w, s in one}
        at = {(p, o): (w, s) for p, o, w, s in final}
        assert seen == at, f"the group read {len(seen)} of {len(at)} records, {len(set(seen.items()) ^ set(at.items()))} differ"
        print(f"  {self.name}: {self.kills} kills, {n} records in the log, {len(history.acked)} acknowledged, 0 lost, 0 doubled", flush=True)


def cycle_kills(role):
    with Load(role) as load:
        node = load.node
        for i in range(CYCLES):
            time.sleep(load.rng.uniform(1.05, 1.5))  # a death within 1 s of readiness would count as a crash loop
            before = node.pids()
            node.kill(role)
            load.kills += 1
            if role == "supervisor":
                leat.wait_until("the node is gone", lambda: not alive(before.values()), 10)
                node.start()
            else:
                leat.wait_until(f"{role} restarted (cycle {i})", lambda: node.pids().get(role) not in (None, before[role], 0), 10)
            node.wait_ready()
            if i % 5 == 4:
                load.check_offsets()
            load.check_clients()


def broker():
    cycle_kills("broker")


def controller():
    cycle_kills("controller")


def consumer_coord():
    cycle_kills("consumer-coord")


def supervisor():
    cycle_kills("supervisor")


def counted(node):
    return {p["role"]: p["counted_deaths"] for p in node.status()["processes"]}


def early():
    with Load("before and soon after READY") as load:
        node, supervisor_pid = load.node, load.node.info["supervisor_pid"]
        for _ in range(-(-CYCLES // (IN_A_ROW * len(CHILDREN)))):
            last = {role: None for role in CHILDREN}
            for i in range(IN_A_ROW):
                for role in load.rng.sample(CHILDREN, len(CHILDREN)):
                    delay = load.rng.choice((0, load.rng.uniform(0, 0.05), load.rng.uniform(0, 0.4)))
                    last[role] = load.kill_next(supervisor_pid, role, last[role], delay)
            deaths = counted(node)
            assert max(deaths.values()) <= IN_A_ROW and sum(deaths.values()) > IN_A_ROW, deaths
            node.wait_ready()
            leat.wait_until("ten seconds of READY clear the count", lambda: not any(counted(node).values()), 30, 0.2)
            assert node.mqctl("status").code == 0
            load.check_offsets()
            load.check_clients()


def early_supervisor():
    with Load("supervisor before READY") as load:
        for i in range(CYCLES):
            kill(load.supervisor_pid())
            load.kills += 1
            starting = subprocess.Popen([leat.MQCTL, "sandbox", "start", "--dir", load.node.dir, "--port", str(load.node.port)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if i % 2 == 0:
                assert starting.wait(60) == 0
                continue
            pid = leat.wait_until("a new supervisor", load.supervisor_pid, 10, 0.002)
            time.sleep(load.rng.uniform(0, 0.25))
            kill(pid)
            load.kills += 1
            starting.wait(60)
            load.node.start()
            load.check_clients()
            if i % 5 == 4:
                load.check_offsets()


def gives_up_at_start(load, role):
    """Five deaths of the role while the node starts with its records. Return: False when it was ready for a moment before the last."""
    node, before, last = load.node, load.node.pids(), None
    kill(before["broker"])  # not in order
    kill(load.supervisor_pid())
    leat.wait_until("the node is gone", lambda: not alive(before.values()))
    starting = subprocess.Popen([leat.MQCTL, "sandbox", "start", "--dir", node.dir, "--port", str(node.port)], stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE)
    supervisor_pid = leat.wait_until("a new supervisor", load.supervisor_pid, 10, 0.002)
    for _ in range(IN_A_ROW + 1):
        last = load.kill_next(supervisor_pid, role, last, 0)
    errors = starting.communicate(timeout=60)[1].decode()
    leat.wait_until("the reason is kept", lambda: (node.data / f"failure-{role}").exists())
    if starting.returncode == 0:  # then it is the crash loop of a node that runs
        node.mqctl("supervisor", "start", role)
    else:
        assert starting.returncode == 1 and f"{role} failed: crash loop" in errors and "status 70" in errors, (starting.returncode, errors)
        node.start()
    assert not (node.data / f"failure-{role}").exists() and node.mqctl("status").code == 0
    load.check_clients()
    return starting.returncode != 0


def crash_loop():
    with Load("crash loops") as load:
        node = load.node
        for role in CHILDREN:
            reason = node.data / f"failure-{role}"
            time.sleep(1.1)
            supervisor_pid = node.info["supervisor_pid"]
            last = load.kill_next(supervisor_pid, role, None, 0)  # it has long been ready: not counted
            for _ in range(IN_A_ROW + 1):
                last = load.kill_next(supervisor_pid, role, last, load.rng.uniform(0, 0.02))
            leat.wait_until("the daemon is failed", lambda: node.status()["state"] == "failed: crash loop")
            status = node.mqctl("status", check=False)
            assert status.code == 1 and f"{role} failed: crash loop (SIGKILL)".encode() in status.out, status.out
            assert "crash loop" in reason.read_text(), reason.read_text()
            time.sleep(1)
            assert load.child_pid(supervisor_pid, role) is None, "started again by itself"
            node.mqctl("supervisor", "start", role)
            assert not reason.exists() and node.mqctl("status").code == 0
            load.check_clients()
        for role in ("controller", "broker"):
            assert any(gives_up_at_start(load, role) for _ in range(10)), f"the node was always ready before the fifth death of {role}"
        load.check_offsets()


leat.main(broker, controller, consumer_coord, supervisor, early, early_supervisor, crash_loop)
