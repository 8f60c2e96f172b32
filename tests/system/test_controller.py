#!/usr/bin/python3
"""The controller is killed under a load of administration. Every client asks for each thing once and does not repeat itself: it must
hear of success only, also where the controller died between its commit and the answer.

To hit that moment the thread that answers is stopped (ptrace stops one thread, a signal all) while the one that commits goes on."""
import ctypes
import os
import signal
import threading
import time

from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

import leat

CYCLES = leat.cycles(5)
WORKERS = 24


PTRACE_INTERRUPT, PTRACE_SEIZE, WALL = 0x4207, 0x4206, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def kill_unanswered(pid):
    """The main thread stops, commits go on for a moment, then all ends. False: this machine does not let us trace."""
    ptrace = libc.ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if ptrace(PTRACE_SEIZE, pid, None, None) < 0:
        return False
    ptrace(PTRACE_INTERRUPT, pid, None, None)
    os.waitpid(pid, WALL)
    time.sleep(0.03)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, WALL)
    return True


class Worker(threading.Thread):
    """Creates, grows, alters and deletes topics of its own, one request at a time."""

    def __init__(self, node, i, stop):
        super().__init__(daemon=True)
        self.i, self.stop, self.done, self.refused, self.kept = i, stop, 0, [], []
        self.admin = AdminClient({"bootstrap.servers": node.kafka, "log_level": 0})

    def ask(self, what, futures):
        for name, f in futures.items():
            try:
                f.result(30)
                self.done += 1
            except Exception as e:  # noqa: BLE001  any refusal is a finding
                self.refused.append(f"{what} {name}: {e}")

    def run(self):
        n = 0
        while not self.stop.is_set():
            name = f"w{self.i}-{n}"
            n += 1
            self.ask("create", self.admin.create_topics([NewTopic(name, 1, 1)], operation_timeout=20, request_timeout=25))
            if n % 4 == 0:
                self.ask("grow", self.admin.create_partitions([NewPartitions(name, 3)], operation_timeout=20, request_timeout=25))
            if n % 4 == 1:
                config = ConfigResource(ConfigResource.Type.TOPIC, name, set_config={"retention.ms": "1234567"})
                self.ask("alter", self.admin.alter_configs([config], request_timeout=25))
            if n % 4 == 2:
                self.ask("delete", self.admin.delete_topics([name], operation_timeout=20, request_timeout=25))
            else:
                self.kept.append(name)


def killed_between_commit_and_answer():
    with leat.Node() as node:
        stop = threading.Event()
        workers = [Worker(node, i, stop) for i in range(WORKERS)]
        for w in workers:
            w.start()
        for _ in range(CYCLES):
            node.wait_ready()
            time.sleep(1.1)  # a death within 1 s of readiness would count as a crash loop
            if not kill_unanswered(node.pids()["controller"]):
                node.kill("controller")
        time.sleep(0.5)
        node.wait_ready()
        stop.set()
        for w in workers:
            w.join(60)
        refused = [r for w in workers for r in w.refused]
        assert not refused, f"{len(refused)} refusals: {refused[:5]}"
        there = {t["topic"] for t in node.mqctl("topic", "list", "-o", "json").json()["topics"]}
        want = {name for w in workers for name in w.kept}
        assert there == want, (len(there), len(want), sorted(there ^ want)[:5])
        print(f"  {CYCLES} kills, {sum(w.done for w in workers)} requests, {len(want)} topics: no refusal", flush=True)


leat.main(killed_between_commit_and_answer)
