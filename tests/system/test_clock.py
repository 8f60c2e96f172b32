#!/usr/bin/env python3
"""A wall clock that is not believed (D12): nothing expires by it, `status` names the way out, and the operator's word is enough,
also after the next start."""
import time

import leat

CONF = "log.retention.check.interval.ms=200\noffsets.retention.check.interval.ms=200\n"
DAY_MS = 24 * 3600 * 1000
KEPT = 5  # records of a topic that keeps them for a second


def distrusted_by(node):
    counters = node.status()["counters"]
    return {role for role in ("broker", "consumer-coord") if counters[role].get("clock_distrusted")}


def restart_with_time_kept(node, ms):
    node.stop()
    (node.data / "last-time").write_text(f"{ms}\n")
    node.start()


def records(node):
    return node.mqctl("consume", "t", "-r", ":end", "-f", "%v\n").out.split()


def fill(node):
    node.mqctl("produce", "t", input="".join(f"{i}\n" for i in range(KEPT)))


def accepted():
    with leat.Node(CONF) as node:
        assert distrusted_by(node) == set()
        leat.wait_until("the time is kept", lambda: (node.data / "last-time").exists())
        assert abs(int((node.data / "last-time").read_text()) - time.time() * 1000) < 60000
        node.mqctl("topic", "create", "t", "-c", "retention.ms=1000", "-c", "segment.ms=1000")
        for off_ms in (-40 * DAY_MS, 40 * DAY_MS):  # as if the clock had been put ahead, and back, while the node was down
            restart_with_time_kept(node, int(time.time() * 1000) + off_ms)
            assert distrusted_by(node) == {"broker", "consumer-coord"}
            fill(node)
            status = node.mqctl("status", "-o", "json", check=False)
            assert status.code == 1
            problems = status.json()["problems"]
            assert len(problems) == 1 and f"mqctl --sandbox {node.dir} supervisor accept-clock" in problems[0]["look"], problems
            time.sleep(2.5)  # more than retention, segment and check intervals together
            assert len(records(node)) == KEPT, "records expired by a clock that is not believed"
            refused = node.mqctl("supervisor", "accept-clock", check=False, input="")
            assert refused.code != 0 and b"-y" in refused.err and distrusted_by(node), "accepted without being asked"

            answer = node.mqctl("supervisor", "accept-clock", "-y", "-o", "json").json()
            assert set(answer["distrusted_by"]) == {"broker", "consumer-coord"}, answer
            assert distrusted_by(node) == set() and node.mqctl("status").code == 0
            leat.wait_until("the records expire", lambda: records(node) == [], 10, 0.2)
            node.kill("broker")  # that it was accepted survives a crash of everybody
            node.kill("supervisor")
            node.start()
            assert distrusted_by(node) == set()


def ends_of_a_daemon():
    with leat.Node(CONF) as node:
        restart_with_time_kept(node, int(time.time() * 1000) - 40 * DAY_MS)
        for role in ("broker", "consumer-coord"):  # doubt does not end with a process
            node.mqctl("supervisor", "restart", role)
            assert distrusted_by(node) == {"broker", "consumer-coord"}
        node.mqctl("supervisor", "stop", "broker")
        r = node.mqctl("supervisor", "accept-clock", "-y", check=False)
        assert r.code == 6 and b"supervisor start broker" in r.err, (r.code, r.err)
        node.mqctl("supervisor", "start", "broker")
        node.mqctl("supervisor", "stop", "consumer-coord")
        node.mqctl("supervisor", "accept-clock", "-y")
        node.mqctl("supervisor", "start", "consumer-coord")
        assert distrusted_by(node) == set()


leat.main(accepted, ends_of_a_daemon)
