#!/usr/bin/env python3
"""Drain of a node whose clients are at work (D33): new sessions are refused, groups finish, then it is drained."""
import subprocess
import time

import leat


def state(node, role):
    p = next(p for p in node.status()["processes"] if p["role"] == role)
    return "drained" if p["drained"] else p["state"]


def restarts_of(node, role):
    return next(p for p in node.status()["processes"] if p["role"] == role)["restarts"]


def begin_drain(node, timeout="60s"):
    return subprocess.Popen([leat.MQCTL, "--sandbox", node.dir, "--timeout", timeout, "supervisor", "drain"], stderr=subprocess.PIPE)


def reads_on(log):
    before = log.stat().st_size
    leat.wait_until("the consumer reads on", lambda: log.stat().st_size > before + 1000)


def drain():
    with leat.Node() as node:
        node.mqctl("topic", "create", "t", "-p", "2")
        producer = node.producer("t", 1, node.dir / "p.log", 500)
        log = node.dir / "c.log"
        consumer = node.consumer("t", "g", log, "auto.commit.interval.ms=100")
        leat.wait_until("the group reads", lambda: log.exists() and "R " in log.read_text())

        short = begin_drain(node, "1s")
        assert short.wait(30) == 7 and b"consumer-coord still had work" in short.stderr.read()
        began = time.monotonic()
        assert begin_drain(node, "2s").wait(30) == 7 and time.monotonic() - began > 2  # asked again, it waits again
        taken_back = begin_drain(node)
        leat.wait_until("the broker is drained", lambda: state(node, "broker") == "drained")
        node.mqctl("supervisor", "undrain")
        assert taken_back.wait(20) == 6 and b"undrain" in taken_back.stderr.read()
        assert node.mqctl("status").code == 0

        draining = begin_drain(node)
        leat.wait_until("the broker is drained", lambda: state(node, "broker") == "drained")
        refused = node.mqctl("consume", "t", "-n", "1", check=False)
        assert refused.code != 0 and b"supervisor undrain" in refused.err, (refused.code, refused.err)
        reads_on(log)  # the sessions that are there work on
        assert state(node, "consumer-coord") == "draining" and draining.poll() is None
        restarts = restarts_of(node, "consumer-coord")
        node.kill("consumer-coord")  # it has no members until it has read its log
        leat.wait_until("draining again", lambda: restarts_of(node, "consumer-coord") > restarts and state(node, "consumer-coord") != "starting")
        reads_on(log)
        assert state(node, "consumer-coord") == "draining" and draining.poll() is None
        assert leat.end(consumer, producer) == [0, 0]
        assert draining.wait(30) == 0 and state(node, "consumer-coord") == "drained"

        node.kill("consumer-coord")  # a drained node stays so
        leat.wait_until("drained again", lambda: state(node, "consumer-coord") == "drained")
        node.mqctl("supervisor", "undrain")
        assert node.mqctl("consume", "t", "-n", "1", "-f", "%o\n").out == b"0\n"

        consumer = node.consumer("t", "g", log)
        producer = node.producer("t", 2, node.dir / "p2.log", 500)
        reads_on(log)
        node.mqctl("-y", "--timeout", "6s", "supervisor", "stop", "--drain", timeout=40)  # who stays is left behind
        assert (node.data / "clean-shutdown").exists()
        node.start()
        reads_on(log)
        assert leat.end(producer, consumer) == [0, 0]
        leat.check_log(leat.History([node.dir / "p.log", node.dir / "p2.log"]), leat.read_all(node, "t"))


leat.main(drain)
