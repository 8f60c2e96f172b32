#!/usr/bin/env python3
"""kill -9 of each daemon under load: nothing acknowledged is lost, nothing doubled, order kept, committed offsets never go back,
clients recover by themselves. Checkers K1-K6, K8, K14, K25 of docs/testing.md. `--cycles 100` for the long run."""
import random
import time

import leat

CYCLES = leat.cycles(25)


def cycle_kills(role):
    with leat.Node("offsets.topic.num.partitions=4\n") as node:
        node.mqctl("topic", "create", "orders", "-p", "4")
        logs = {n: node.dir / f"{n}.log" for n in ("p1", "p2", "c1", "c2")}
        producers = [node.producer("orders", i, logs[f"p{i}"], 1500) for i in (1, 2)]
        consumers = [node.consumer("orders", "g", logs[f"c{i}"], "auto.commit.interval.ms=100") for i in (1, 2)]
        rng = random.Random(7)
        committed = {}
        for i in range(CYCLES):
            time.sleep(rng.uniform(1.05, 1.5))  # a death within 1 s of readiness would count as a crash loop
            before = node.pids()
            node.kill(role)
            if role == "supervisor":
                leat.wait_until("the node is gone", lambda: not alive(before.values()), 10)
                node.start()
            else:
                leat.wait_until(f"{role} restarted (cycle {i})", lambda: node.pids().get(role) not in (None, before[role], 0), 10)
            node.wait_ready()
            if i % 5 == 4:  # K14: offsets of the group never go back
                for row in node.mqctl("group", "describe", "g", "-o", "json").json()["partitions"]:
                    key, now = row["partition"], row["committed"]
                    if now is not None and now >= 0:
                        assert now >= committed.get(key, 0), f"K14 offset of {key} went from {committed[key]} to {now}"
                        committed[key] = now
            for p in producers + consumers:
                assert p.poll() is None, f"a client ended by itself: {p.args} -> {p.returncode}"
        time.sleep(1)
        codes = leat.end(*producers)
        assert codes == [0, 0], codes
        history = leat.History([logs["p1"], logs["p2"]])
        assert not history.failed, list(history.failed.values())[:3]
        final = leat.read_all(node, "orders")
        n = leat.check_log(history, final)
        # K16: the group catches up
        def caught_up():
            rows = node.mqctl("group", "describe", "g", "-o", "json").json()["partitions"]
            return len(rows) == 4 and all(r["lag"] == 0 for r in rows)
        leat.wait_until("the group has no lag", caught_up, 30, 0.2)
        codes = leat.end(*consumers)
        assert codes == [0, 0], codes
        reads = leat.History([logs["c1"], logs["c2"]])
        seen = {(p, o): (w, s) for one in reads.read for p, o, w, s in one}
        at = {(p, o): (w, s) for p, o, w, s in final}
        assert seen == at, f"the group read {len(seen)} of {len(at)} records, {len(set(seen.items()) ^ set(at.items()))} differ"
        print(f"  {role}: {CYCLES} kills, {n} records in the log, {len(history.acked)} acknowledged", flush=True)


def alive(pids):
    import os
    out = []
    for p in pids:
        try:
            os.kill(p, 0)
            out.append(p)
        except OSError:
            pass
    return out


def broker():
    cycle_kills("broker")


def controller():
    cycle_kills("controller")


def consumer_coord():
    cycle_kills("consumer-coord")


def supervisor():
    cycle_kills("supervisor")


leat.main(broker, controller, consumer_coord, supervisor)
