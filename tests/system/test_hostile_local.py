#!/usr/bin/env python3
"""A hostile local client scribbles over its session while others work: only it is dropped, the log holds valid batches alone, nothing of
the others is lost. Attacks as root's other user when it can (nobody in group leat-clients does not exist in a sandbox: same uid here)."""
import pathlib
import subprocess
import time

import leat


def scribbler():
    with leat.Node("offsets.topic.num.partitions=2\n") as node:
        node.mqctl("topic", "create", "t", "-p", "4")
        node.mqctl("topic", "create", "victim", "-p", "2")
        pids = node.pids()
        steady = node.producer("t", 1, node.dir / "w.log", 2000)
        reader = node.consumer("t", "g", node.dir / "c.log")
        time.sleep(0.3)
        attackers = [subprocess.Popen([leat.BUILD / "tests" / "system" / "hostile_session", node.socket, "victim", "8", str(seed)], stdout=subprocess.PIPE)
                     for seed in (1, 2)]
        rounds = sum(int(a.communicate(timeout=60)[0] or 0) for a in attackers)
        assert rounds > 50, rounds
        assert all(a.returncode in (0, -11, -7) for a in attackers), [a.returncode for a in attackers]  # it may well hurt itself
        assert node.pids() == pids, "a daemon died of a hostile client"
        assert steady.poll() is None and reader.poll() is None
        time.sleep(0.5)
        assert leat.end(steady) == [0]
        history = leat.History([node.dir / "w.log"])
        final = leat.read_all(node, "t")
        leat.check_log(history, final)
        leat.wait_until("the group read all", lambda: all(p["lag"] == 0 for p in node.mqctl("group", "describe", "g", "-o", "json").json()["partitions"]), 20, 0.2)
        leat.end(reader)
        leat.wait_until("its sessions are gone", lambda: node.status()["counters"]["broker"]["sessions"] <= 4, 10, 0.2)
        node.stop()
        node.mqctl("log", "verify", "--all")
        print(f"  {rounds} hostile rounds, {len(final)} records of others intact", flush=True)


leat.main(scribbler)
