#!/usr/bin/env python3
"""Kafka's own clients against the TCP listener: kcat, librdkafka (confluent-kafka), kafka-python, franz-go, and mixed groups."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import leat

try:
    import confluent_kafka
    from confluent_kafka import Consumer, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic
except ImportError:
    confluent_kafka = None


def kcat(node, *args, input=None, check=True):
    return leat.run(["kcat", "-b", node.kafka, *args], input=input, check=check, timeout=60)


def kcat_round_trip():
    if not shutil.which("kcat"):
        leat.skip("kcat is not installed")
    with leat.Node("auto.create.topics.enable=true\n") as node:
        for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
            t = f"k-{codec}"
            text = "".join(f"key{i}:{codec}-{'x' * 50}-{i}\n" for i in range(500))
            kcat(node, "-P", "-t", t, "-K:", "-z", codec, input=text.encode())
            r = kcat(node, "-C", "-t", t, "-K:", "-e", "-q", "-o", "beginning")
            assert r.out.decode() == text, (codec, len(r.out))
            r = node.mqctl("consume", t, "-r", ":end", "-f", "%k:%v\n")
            assert r.out.decode() == text, f"local read of {codec}"
        r = kcat(node, "-L", "-J").json()
        assert {t["topic"] for t in r["topics"]} >= {f"k-{c}" for c in ("none", "gzip", "snappy", "lz4", "zstd")}
        # by offset and by time
        r = kcat(node, "-C", "-t", "k-zstd", "-o", "490", "-e", "-q", "-f", "%o\n")
        assert r.out.split() == [str(i).encode() for i in range(490, 500)]
        now = int(time.time() * 1000)
        r = kcat(node, "-Q", "-t", f"k-gzip:0:{now - 3600000}")
        assert b"offset 0" in r.out, r.out
        time.sleep(0.01)
        kcat(node, "-P", "-t", "k-gzip", input=b"late\n")
        r = kcat(node, "-C", "-t", "k-gzip", "-o", f"s@{now + 5}", "-e", "-q")
        assert b"late" in r.out
        # what local programs produce, Kafka clients read
        node.mqctl("produce", "k-none", "-f", "%k:%v\n", input="a:b\n")
        assert kcat(node, "-C", "-t", "k-none", "-o", "-1", "-e", "-q").out == b"b\n"
        # a group
        r = kcat(node, "-G", "kg", "-X", "auto.offset.reset=earliest", "-e", "-q", "k-lz4")
        assert len(r.out.splitlines()) == 500, len(r.out.splitlines())


def librdkafka():
    if not confluent_kafka:
        leat.skip("python3-confluent-kafka is not installed")
    with leat.Node("offsets.topic.num.partitions=4\n") as node:
        admin = AdminClient({"bootstrap.servers": node.kafka})
        for f in admin.create_topics([NewTopic("t", 4, 1, config={"retention.ms": "3600000"})]).values():
            f.result(10)
        for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
            for acks in ("0", "1", "all"):
                p = Producer({"bootstrap.servers": node.kafka, "compression.type": codec, "acks": acks,
                              "enable.idempotence": acks == "all", "linger.ms": 5})
                bad = []
                for i in range(200):
                    p.produce("t", f"{codec}-{acks}-{i}", key=f"k{i}", on_delivery=lambda e, m: bad.append(e) if e else None)
                assert p.flush(30) == 0 and not bad, (codec, acks, bad[:2])
        c = Consumer({"bootstrap.servers": node.kafka, "group.id": "g", "auto.offset.reset": "earliest", "enable.auto.commit": False})
        c.subscribe(["t"])
        got = set()
        end = time.monotonic() + 30
        while len(got) < 3000 and time.monotonic() < end:
            for m in c.consume(500, 1):
                assert not m.error(), m.error()
                got.add(m.value())
        assert len(got) == 3000, len(got)
        c.commit(asynchronous=False)
        done = c.committed([TopicPartition("t", i) for i in range(4)], 10)
        assert sum(x.offset for x in done) == 3000, done
        times = c.offsets_for_times([TopicPartition("t", 0, 0)], 10)
        assert times[0].offset == 0
        lo, hi = c.get_watermark_offsets(TopicPartition("t", 1), 10)
        assert lo == 0 and hi > 0
        c.close()
        res = ConfigResource("topic", "t")
        cfg = admin.describe_configs([res])[res].result(10)
        assert cfg["retention.ms"].value == "3600000" and cfg["cleanup.policy"].value == "delete"
        admin.create_partitions([NewPartitions("t", 6)])["t"].result(10)
        leat.wait_until("six partitions", lambda: len(admin.list_topics("t", 10).topics["t"].partitions) == 6)
        groups = [g.id for g in admin.list_groups(timeout=10)]
        assert "g" in groups, groups
        admin.delete_topics(["t"])["t"].result(10)


def mixed_group():
    """One group with a local and a Kafka member: they share the partitions, the death of either moves them."""
    if not confluent_kafka:
        leat.skip("python3-confluent-kafka is not installed")
    with leat.Node("offsets.topic.num.partitions=4\n") as node:
        node.mqctl("topic", "create", "t", "-p", "4")
        log = node.dir / "c.log"
        local = node.consumer("t", "mixed", log, "partition.assignment.strategy=range,roundrobin")
        c = Consumer({"bootstrap.servers": node.kafka, "group.id": "mixed", "auto.offset.reset": "earliest",
                      "partition.assignment.strategy": "range,roundrobin", "session.timeout.ms": 6000})
        c.subscribe(["t"])
        leat.wait_until("the Kafka member has two partitions", lambda: (c.poll(0.1), len(c.assignment()) == 2)[1], 20)
        p = node.producer("t", 1, node.dir / "p.log", 2000)
        kafka = set()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            collect(c, kafka)
        assert kafka
        start = time.monotonic()
        local.kill()  # noticed at once, not after the session timeout
        local.wait()
        leat.wait_until("the Kafka member has all four", lambda: (collect(c, kafka), len(c.assignment()) == 4)[1], 20)
        took = time.monotonic() - start
        assert took < 6, f"a dead local member was noticed only after {took:.1f} s"
        assert leat.end(p) == [0]
        acked = leat.History([node.dir / "p.log"]).acked
        leat.wait_until("everything read", lambda: (collect(c, kafka), covered(acked, kafka, log))[1], 20)
        c.close()


def collect(c, seen):
    """One by one: librdkafka's batch consume drops records that it holds when a rebalance comes."""
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        m = c.poll(0.1)
        if m and not m.error():
            seen.add((m.partition(), m.offset()))


def covered(acked, kafka, log):
    local = {(p, o) for one in leat.History([log]).read for p, o, _, _ in one}
    return set(acked.values()) <= kafka | local


def refused(fn, text):
    try:
        fn()
    except confluent_kafka.KafkaException as e:
        assert text in str(e), e
        return
    raise AssertionError(f"not refused: {text}")


def refusals():
    """What is not offered or too large is refused at once, and the client can say why."""
    if not confluent_kafka:
        leat.skip("python3-confluent-kafka is not installed")
    with leat.Node("offsets.topic.num.partitions=4\n") as node:
        admin = AdminClient({"bootstrap.servers": node.kafka})
        refused(lambda: Producer({"bootstrap.servers": node.kafka, "transactional.id": "x"}).init_transactions(10), "transactions are not offered")
        create = lambda name, n=1, r=1, **config: admin.create_topics([NewTopic(name, n, r, config=config)])[name].result(10)  # noqa: E731
        create("big", **{"max.message.bytes": "5000000"})
        create("compact", **{"cleanup.policy": "compact"})
        refused(lambda: create("big"), "already exists")
        refused(lambda: create("../x"), "invalid")
        refused(lambda: create("three", r=3), "only 1 broker")
        refused(lambda: create("odd", **{"retention.ms": "soon"}), "retention.ms")
        refused(lambda: create("odd", **{"retention.sm": "1"}), "retention.sm")
        refused(lambda: admin.create_partitions([NewPartitions("big", 1)])["big"].result(10), "already has 1")
        refused(lambda: admin.delete_topics(["absent"])["absent"].result(10), "UNKNOWN_TOPIC")
        seen = {}
        p = Producer({"bootstrap.servers": node.kafka, "message.max.bytes": 20000000})
        for topic, key, size in (("big", None, 4900000), ("big", None, 6000000), ("compact", None, 10), ("compact", "k", 10)):
            p.produce(topic, b"x" * size, key=key, on_delivery=lambda e, m, at=(topic, key, size): seen.update({at: e and e.name()}))
            assert p.flush(20) == 0
        assert list(seen.values()) == [None, "MSG_SIZE_TOO_LARGE", "INVALID_RECORD", None], seen
        c = Consumer({"bootstrap.servers": node.kafka, "group.id": "g", "fetch.message.max.bytes": 1000})
        c.assign([TopicPartition("big", 0, 0)])
        assert len(c.poll(10).value()) == 4900000  # larger than asked for, and still delivered
        c.close()


def member_kinds():
    """A static member that returns keeps its partitions without a rebalance, a second one with its name fences the first;
    cooperative members keep what they need not give away."""
    if not confluent_kafka:
        leat.skip("python3-confluent-kafka is not installed")
    with leat.Node("offsets.topic.num.partitions=4\n") as node:
        node.mqctl("topic", "create", "t", "-p", "4")
        events = []

        def member(group, name, **more):
            c = Consumer({"bootstrap.servers": node.kafka, "group.id": group, "session.timeout.ms": 6000, "heartbeat.interval.ms": 300,
                          **{k.replace("_", "."): v for k, v in more.items()}})
            c.subscribe(["t"], on_assign=lambda _, p: events.append((name, "+", len(p))), on_revoke=lambda _, p: events.append((name, "-", len(p))))
            return c

        def settle(what, want, *members):
            errors = []

            def done():
                for m in members:
                    x = m.poll(0.05)
                    if x and x.error():
                        errors.append(x.error())
                return want() if want else errors
            return leat.wait_until(what, done, 20)

        a, b = member("s", "a", group_instance_id="a"), member("s", "b", group_instance_id="b")
        settle("two each", lambda: len(a.assignment()) == 2 == len(b.assignment()), a, b)
        had = sorted(p.partition for p in b.assignment())
        b.close()
        del events[:]
        again = member("s", "b", group_instance_id="b")
        settle("the same again", lambda: sorted(p.partition for p in again.assignment()) == had, a, again)
        assert not [e for e in events if e[0] == "a"], events
        usurper = member("s", "c", group_instance_id="b")
        settle("the older is fenced", lambda: len(usurper.assignment()) == 2, a, usurper)
        assert settle("it is told", None, again)[0].code() == confluent_kafka.KafkaError._FATAL
        a.close()
        usurper.close()

        del events[:]
        a = member("c", "a", partition_assignment_strategy="cooperative-sticky")
        settle("all four", lambda: len(a.assignment()) == 4, a)
        b = member("c", "b", partition_assignment_strategy="cooperative-sticky")
        settle("two each", lambda: len(a.assignment()) == 2 == len(b.assignment()), a, b)
        assert [e for e in events if e[1] == "-" and e[2] > 0] == [("a", "-", 2)], events
        a.close()
        settle("all four go over", lambda: len(b.assignment()) == 4, b)
        b.close()


def broker_kill():
    """An idempotent librdkafka producer and a group across kill -9 of broker and coordinator: nothing lost, twice or out of order."""
    if not confluent_kafka:
        leat.skip("python3-confluent-kafka is not installed")
    with leat.Node("offsets.topic.num.partitions=4\n") as node:
        node.mqctl("topic", "create", "t", "-p", "3")
        p = Producer({"bootstrap.servers": node.kafka, "enable.idempotence": True, "linger.ms": 1})
        c = Consumer({"bootstrap.servers": node.kafka, "group.id": "g", "auto.offset.reset": "earliest", "auto.commit.interval.ms": 200})
        c.subscribe(["t"])
        acked, failed, got, n = {}, [], {}, 0

        def on_delivery(e, m):
            if e:
                failed.append(e)
            else:
                acked[int(m.value())] = (m.partition(), m.offset())

        def work(seconds):
            nonlocal n
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for _ in range(20):
                    p.produce("t", str(n), key=str(n % 50), on_delivery=on_delivery)
                    n += 1
                p.poll(0.005)
                read(0.005)

        def read(timeout):
            for m in c.consume(500, timeout):
                if not m.error():
                    assert got.setdefault((m.partition(), m.offset()), int(m.value())) == int(m.value())

        work(1.5)
        for role in ("broker", "consumer-coord", "broker"):
            node.kill(role)
            work(1.5)
        assert p.flush(30) == 0 and not failed, failed[:2]
        leat.wait_until("everything read", lambda: (read(0.1), set(acked.values()) <= set(got))[1], 30)
        c.close()
        assert len(acked) == n and len(got) == n and len(set(got.values())) == n, (n, len(acked), len(got))
        last = {}
        for at in sorted(got):
            assert last.get(got[at] % 50, -1) < got[at], "out of order"
            last[got[at] % 50] = got[at]


def kafka_python():
    try:
        import kafka
        import kafka.admin
    except ImportError:
        leat.skip("python3-kafka is not installed")
    with leat.Node("offsets.topic.num.partitions=4\n") as node:
        admin = kafka.admin.KafkaAdminClient(bootstrap_servers=node.kafka)
        admin.create_topics([kafka.admin.NewTopic("t", 3, 1)])
        p = kafka.KafkaProducer(bootstrap_servers=node.kafka, acks="all", compression_type="gzip")
        sent = [p.send("t", f"v{i}".encode(), key=f"k{i}".encode(), headers=[("h", b"x")]) for i in range(300)]
        p.flush(30)
        assert all(f.get(10).offset >= 0 for f in sent)
        c = kafka.KafkaConsumer("t", bootstrap_servers=node.kafka, group_id="kp", auto_offset_reset="earliest", consumer_timeout_ms=5000)
        got = set()
        for m in c:
            got.add(m.value)
            assert m.headers == [("h", b"x")]
            if len(got) == 300:
                break
        assert len(got) == 300, len(got)
        c.commit()
        c.close()
        assert admin.describe_consumer_groups(["kp"])[0].state in ("Empty", "Stable", "Dead")
        offsets = admin.list_consumer_group_offsets("kp")
        assert sum(o.offset for o in offsets.values()) == 300
        cfg = admin.describe_configs([kafka.admin.ConfigResource("TOPIC", "t")])
        assert any(e[0] == "retention.ms" for e in cfg[0].resources[0][4])
        admin.alter_configs([kafka.admin.ConfigResource("TOPIC", "t", configs={"retention.ms": "1000000"})])
        admin.create_partitions({"t": kafka.admin.NewPartitions(5)})
        admin.delete_topics(["t"])


def franz_go():
    if not shutil.which("go"):
        leat.skip("go is not installed")
    src = pathlib.Path(__file__).parent / "franz"
    cache = pathlib.Path(os.environ.get("LEAT_GO_DIR", tempfile.gettempdir())) / "leat-franz"
    cache.mkdir(exist_ok=True)
    for f in src.iterdir():
        shutil.copy(f, cache / f.name)
    r = subprocess.run(["go", "build", "-o", "franz", "."], cwd=cache, capture_output=True, timeout=600)
    if r.returncode != 0:
        text = r.stderr.decode(errors="replace")
        if "dial tcp" in text or "no required module" in text or "connection" in text or "lookup" in text:
            leat.skip("the Go module proxy cannot be reached: " + text[:200])
        raise AssertionError(text)
    with leat.Node("offsets.topic.num.partitions=4\n") as node:
        r = leat.run([cache / "franz", node.kafka], timeout=120)
        print(r.out.decode())


leat.main(kcat_round_trip, librdkafka, refusals, member_kinds, broker_kill, mixed_group, kafka_python, franz_go)
