#!/usr/bin/env python3
"""kill -9 of the coordinator with commits in flight, under one cooperative group of local and Kafka members, static and dynamic, whose
members come and go, a consumer that commits by itself, and groups that nobody is in. No acknowledged commit is lost, no offset goes
back, no group is forgotten, every record is read. `--cycles 30` for the long run."""
import random
import threading
import time

import leat

try:
    from confluent_kafka import Consumer, KafkaException, TopicPartition
except ImportError:
    leat.skip("python3-confluent-kafka is not installed")

CYCLES = leat.cycles(4)
PARTITIONS = 8
QUIET = [f"quiet-{i}" for i in range(10)]
RETRIABLE = {"COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR", "COORDINATOR_LOAD_IN_PROGRESS", "REBALANCE_IN_PROGRESS",
             "ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REQUEST_TIMED_OUT", "_NO_OFFSET", "_WAIT_COORD", "_TIMED_OUT", "_ASSIGNMENT_LOST"}


class Committer(threading.Thread):
    """What it was told is committed: acked."""

    def __init__(self, node, group, **conf):
        super().__init__(daemon=True)
        self.acked, self.read, self.problems, self.commits, self.over = {}, [], [], 0, False
        self.c = Consumer({"bootstrap.servers": node.kafka, "group.id": group, "auto.offset.reset": "earliest", "log_level": 0,
                           "enable.auto.commit": False, **conf})

    def commit(self, **what):
        try:
            for tp in self.c.commit(asynchronous=False, **what):
                if tp.error is None and tp.offset >= 0:
                    self.acked[tp.partition] = max(self.acked.get(tp.partition, 0), tp.offset)
                    self.commits += 1
        except KafkaException as e:
            if e.args[0].name() not in RETRIABLE:
                self.problems.append(str(e))

    def run(self):
        try:
            while not self.over:
                self.turn()
        finally:
            self.c.close()


class KafkaMember(Committer):
    def __init__(self, node, **conf):
        super().__init__(node, "mixed", **{"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 8000, **conf})
        self.c.subscribe(["t"])
        self.start()

    def turn(self):
        for _ in range(40):  # one by one: consume() drops what it holds at a rebalance
            m = self.c.poll(0.02)
            if m and not m.error():
                self.read.append((m.partition(), m.offset()))
        self.commit()


class Plain(Committer):
    """Assigns by itself, and commits as fast as it goes."""

    def __init__(self, node):
        super().__init__(node, "plain")
        self.next = 0
        self.start()

    def turn(self):
        self.next += 1
        self.commit(offsets=[TopicPartition("t", p, self.next) for p in range(4)])


def committed(node, group):
    d = node.mqctl("group", "describe", group, "-o", "json", check=False)
    return {p["partition"]: p["committed"] for p in d.json()["partitions"] if p["committed"] is not None} if d.code == 0 else None


class Chaos:
    def __init__(self, node):
        self.node, self.rng, self.seen, self.logs = node, random.Random(11), {}, []
        node.mqctl("topic", "create", "t", "-p", PARTITIONS)
        for g in QUIET:
            Committer(node, g).commit(offsets=[TopicPartition("t", 0, 7)])
        self.producer = node.producer("t", 1, node.dir / "p.log", 1500)
        self.local = {"dynamic": self.join("dynamic"), "static": self.join("static")}
        self.kafka = [KafkaMember(node), KafkaMember(node, **{"group.instance.id": "ks"})]
        self.left = []
        self.plain = Plain(node)

    def join(self, kind):
        log = self.node.dir / f"c{len(self.logs)}.log"
        self.logs.append(log)
        static = ["group.instance.id=ls"] if kind == "static" else []
        return self.node.consumer("t", "mixed", log, "partition.assignment.strategy=cooperative-sticky", "session.timeout.ms=8000",
                                  "auto.commit.interval.ms=50", *static)

    def disturb(self):
        """A rebalance, or a death, that the kill falls into."""
        kind = self.rng.choice(["nothing", "nothing", "leave", "kill", "static", "kafka"])
        if kind in ("leave", "kill"):
            p = self.local["dynamic"]
            p.kill() if kind == "kill" else p.terminate()
            p.wait(30)
            self.local["dynamic"] = self.join("dynamic")
        elif kind == "static":
            self.local["static"].kill()
            self.local["static"].wait(30)
            self.local["static"] = self.join("static")
        elif kind == "kafka":
            old, self.kafka[0] = self.kafka[0], KafkaMember(self.node)
            old.over = True
            self.left.append(old)
        time.sleep(self.rng.uniform(0, 0.15))

    def acked(self, committers):
        return {p: max((c.acked.get(p, 0) for c in committers), default=0) for p in range(PARTITIONS)}

    def check(self):
        want = {"mixed": self.acked(self.kafka + self.left), "plain": self.acked([self.plain])}
        leat.wait_until("the groups are back", lambda: all(committed(self.node, g) is not None for g in want), 15)
        for g, acked in want.items():
            now = committed(self.node, g)
            for p, offset in acked.items():
                least = max(offset, self.seen.get((g, p), 0))
                assert now.get(p, 0) >= least, f"{g}: partition {p} has {now.get(p)}, was {least}"
            self.seen.update({(g, p): o for p, o in now.items()})
        there = {g["group"] for g in self.node.mqctl("group", "list", "-o", "json").json()["groups"]}
        assert there >= {"mixed", "plain", *QUIET}, there
        for p in self.local.values():
            assert p.poll() is None, f"a member ended by itself: {p.args} -> {p.returncode}"

    def finish(self):
        assert leat.end(self.producer) == [0]
        final = {(p, o) for p, o, _, _ in leat.read_all(self.node, "t")}

        def read():
            local = [(r[0], r[1]) for one in leat.History(self.logs).read for r in one]
            return local + [r for c in self.kafka + self.left for r in c.read]
        leat.wait_until("the group read everything", lambda: set(read()) >= final, 40, 0.3)
        committers = self.kafka + self.left + [self.plain]
        for c in committers:
            c.over = True
        assert all(c == 0 for c in leat.end(*self.local.values()))
        for c in committers:
            c.join(30)
            assert not c.problems, c.problems[:3]
        for g in QUIET:
            assert committed(self.node, g) == {0: 7}, g
        return len(final), len(read()) - len(final), sum(c.commits for c in committers)


def coordinator():
    with leat.Node("offsets.topic.num.partitions=4\ngroup.min.session.timeout.ms=500\n") as node:
        chaos = Chaos(node)
        leat.wait_until("commits go through", lambda: committed(node, "plain") and committed(node, "mixed"), 20)
        for _ in range(CYCLES):
            time.sleep(chaos.rng.uniform(1.1, 1.6))  # a death within 1 s of readiness would count as a crash loop
            chaos.disturb()
            node.kill("consumer-coord")
            chaos.check()
        n, again, commits = chaos.finish()
        print(f"  {CYCLES} kills, {n} records read, {again} of them again, {commits} commits acknowledged, none lost", flush=True)


leat.main(coordinator)
