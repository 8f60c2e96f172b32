#!/usr/bin/env python3
"""A consumer group under a steady producer while its members join, leave, die, freeze and come back: partitions move at once where
they can, no record is skipped, and none comes twice where a member left in good order."""
import collections
import signal
import time

import leat

CONF = "offsets.topic.num.partitions=4\ngroup.min.session.timeout.ms=500\n"


def members(node, group="g"):
    """client id -> partitions; {} while the group is not stable."""
    d = node.mqctl("group", "describe", group, "-o", "json", check=False)
    d = d.json() if d.code == 0 else {}
    if d.get("state") != "Stable":
        return {}
    owned = collections.Counter(p["member"] for p in d["partitions"])
    return {m["client_id"]: owned.get(m["member"], 0) for m in d["members"]}


def assignment(node, group="g"):
    """partition -> client id"""
    d = node.mqctl("group", "describe", group, "-o", "json").json()
    names = {m["member"]: m["client_id"] for m in d["members"]}
    return {p["partition"]: names.get(p["member"]) for p in d["partitions"]}


def stable(node, shares, timeout=10, group="g"):
    start = time.monotonic()
    leat.wait_until(f"members with {shares} partitions, last {members(node, group)}",
                    lambda: sorted(members(node, group).values()) == sorted(shares), timeout)
    return time.monotonic() - start


class Load:
    """One producer; member(i) adds a consumer; finish() checks that the group read everything."""

    def __init__(self, node, partitions=4, rate=1500):
        self.node, self.logs, self.started = node, [], {}
        node.mqctl("topic", "create", "t", "-p", partitions)
        self.sent = node.dir / "p.log"
        self.producer = node.producer("t", 1, self.sent, rate)

    def member(self, i, *conf):
        path = self.node.dir / f"c{len(self.logs)}.log"
        self.logs.append(path)
        p = self.node.consumer("t", "g", path, f"client.id=m{i}", "auto.commit.interval.ms=100", *conf)
        self.started[i] = p
        return p

    def read(self):
        return [r for one in leat.History(self.logs).read for r in one]

    def finish(self, doubles):
        assert leat.end(self.producer) == [0]
        history = leat.History([self.sent])
        final = leat.read_all(self.node, "t")
        leat.check_log(history, final)
        want = {(p, o): (w, s) for p, o, w, s in final}
        leat.wait_until("the group read everything", lambda: len({(r[0], r[1]) for r in self.read()}) >= len(want), 20, 0.2)
        alive = [p for p in self.started.values() if p.poll() is None]
        assert all(c == 0 for c in leat.end(*alive))
        got = self.read()
        assert {(p, o): (w, s) for p, o, w, s in got} == want
        extra = len(got) - len(want)
        assert doubles or extra == 0, f"{extra} records came twice"
        return len(want), extra


def join_and_leave(*conf):
    with leat.Node(CONF) as node:
        load = Load(node)
        load.member(1, *conf)
        stable(node, [4])
        load.member(2, *conf)
        t1 = stable(node, [2, 2])
        load.member(3, *conf)
        t2 = stable(node, [1, 1, 2])
        time.sleep(0.3)
        assert leat.end(load.started[1]) == [0]
        t3 = stable(node, [2, 2])
        assert leat.end(load.started[2]) == [0]
        t4 = stable(node, [4])
        assert max(t1, t2, t3, t4) < 5, (t1, t2, t3, t4)
        n, _ = load.finish(doubles=False)
        print(f"  {' '.join(conf)}: {n} records; new shares after {t1:.2f} {t2:.2f} {t3:.2f} {t4:.2f} s", flush=True)


def eager():
    join_and_leave("partition.assignment.strategy=range")


def round_robin():
    join_and_leave("partition.assignment.strategy=roundrobin")


def cooperative():
    join_and_leave("partition.assignment.strategy=cooperative-sticky")


def death():
    """A killed member is known by its hang-up, not by a time-out."""
    with leat.Node(CONF) as node:
        load = Load(node)
        load.member(1)
        load.member(2)
        stable(node, [2, 2])
        time.sleep(0.5)
        load.started[1].kill()
        t = stable(node, [4])
        assert t < 3, t
        n, extra = load.finish(doubles=True)
        print(f"  {n} records, {extra} again; taken over after {t:.2f} s", flush=True)


def freeze():
    """A stopped member polls no more: it is out after max.poll.interval.ms, and in again when it goes on."""
    with leat.Node(CONF) as node:
        load = Load(node)
        conf = "session.timeout.ms=1500", "max.poll.interval.ms=1500"
        load.member(1, *conf)
        load.member(2, *conf)
        stable(node, [2, 2])
        load.started[1].send_signal(signal.SIGSTOP)
        t = stable(node, [4])
        assert 0.5 < t < 6, t
        load.started[1].send_signal(signal.SIGCONT)
        back = stable(node, [2, 2])
        n, extra = load.finish(doubles=True)
        print(f"  {n} records, {extra} again; out after {t:.2f} s, in again after {back:.2f} s", flush=True)


def static_member():
    """A static member that comes back within its session time-out gets the partitions it had; they waited for it."""
    with leat.Node(CONF) as node:
        load = Load(node)
        load.member(1, "group.instance.id=one", "session.timeout.ms=8000")
        load.member(2, "group.instance.id=two", "session.timeout.ms=8000")
        stable(node, [2, 2])
        before = assignment(node)
        load.started[1].kill()
        load.started[1].wait()
        time.sleep(0.5)
        assert assignment(node) == before, "a static member's partitions wait for it"
        load.member(1, "group.instance.id=one", "session.timeout.ms=8000")
        stable(node, [2, 2])
        assert assignment(node) == before, (before, assignment(node))
        n, extra = load.finish(doubles=True)
        print(f"  {n} records, {extra} again", flush=True)


def coordinator_dies():
    """Members and offsets survive the coordinator; so do joins that wait for it."""
    with leat.Node(CONF) as node:
        load = Load(node)
        load.member(1)
        load.member(2)
        stable(node, [2, 2])
        time.sleep(1.1)
        node.kill("consumer-coord")
        load.member(3)
        stable(node, [1, 1, 2], 15)
        n, extra = load.finish(doubles=True)
        print(f"  {n} records, {extra} again", flush=True)


def restarted_coordinator_tells():
    """A coordinator that has just restarted tells local members of a join at once, not when they next heartbeat (3 s)."""
    with leat.Node(CONF) as node:
        load = Load(node, 6)
        load.member(1)
        stable(node, [6])
        times = []
        for i, shares in (2, [3, 3]), (3, [2, 2, 2]), (4, [1, 1, 2, 2]):
            time.sleep(1.2)
            node.kill("consumer-coord")
            node.wait_ready()
            leat.wait_until("the group is back", lambda: members(node))
            load.member(i)
            times.append(stable(node, shares))
        assert max(times) < 1, times
        n, extra = load.finish(doubles=True)
        print(f"  {n} records, {extra} again; new shares after {' '.join(f'{t:.2f}' for t in times)} s", flush=True)


def grows_with_its_topic():
    """Partitions that are added are found and read."""
    with leat.Node(CONF) as node:
        load = Load(node, 2)
        load.member(1, "metadata.max.age.ms=500")
        load.member(2, "metadata.max.age.ms=500")
        stable(node, [1, 1])
        node.mqctl("topic", "alter", "t", "-p", "6")
        t = stable(node, [3, 3])
        n, _ = load.finish(doubles=False)
        print(f"  {n} records; six partitions shared after {t:.2f} s", flush=True)


leat.main(eager, round_robin, cooperative, death, freeze, static_member, coordinator_dies, restarted_coordinator_tells,
          grows_with_its_topic)
