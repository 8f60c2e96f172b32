#!/usr/bin/env python3
"""The rules of Kafka's protocol one by one, over TCP, as no client library would ask: error codes, versions, nulls, waits."""
import struct
import time

import kafka_wire
import leat
from kafka_wire import batch

ONE = [(b"k", b"v")]


class Asker(kafka_wire.Client):
    """One question, one partition."""

    def create(self, name, version=7, validate_only=False, **topic):
        topic = {"name": name, "num_partitions": 1, "replication_factor": 1, **topic}
        return self.ask("CreateTopics", version, topics=[topic], timeout_ms=5000, validate_only=validate_only)["topics"][0]

    def produce(self, topic, data, version=9, acks=-1, partition=0):
        return self.ask("Produce", version, **produce_body(topic, data, acks, partition))["responses"][0]["partition_responses"][0]

    def fetch(self, topic, offset, version=12, **more):
        answer = self.ask("Fetch", version, **fetch_body(topic, offset, **more))
        return answer["responses"][0]["partitions"][0]

    def list(self, topic, timestamp, version=8, **more):
        partition = {"partition_index": 0, "timestamp": timestamp, **more}
        return self.ask("ListOffsets", version, replica_id=-1, topics=[{"name": topic, "partitions": [partition]}])["topics"][0]["partitions"][0]

    def offset(self, topic, timestamp, **more):
        p = self.list(topic, timestamp, **more)
        assert p["error_code"] == 0, p
        return p["offset"]

    def delete_records(self, topic, offset, partition=0):
        ask = [{"name": topic, "partitions": [{"partition_index": partition, "offset": offset}]}]
        p = self.ask("DeleteRecords", 2, topics=ask, timeout_ms=5000)["topics"][0]["partitions"][0]
        return p["error_code"], p["low_watermark"]

    def metadata(self, version=12, auto=False, **topic):
        return self.ask("Metadata", version, topics=[topic], allow_auto_topic_creation=auto)["topics"][0]

    def describe(self, kind, name, keys=None, version=4, **more):
        ask = [{"resource_type": kind, "resource_name": name, "configuration_keys": keys}]
        return self.ask("DescribeConfigs", version, resources=ask, **more)["results"][0]

    def value(self, topic, key):
        c = self.describe(2, topic, [key])["configs"][0]
        return c["value"], c["config_source"]

    def change(self, topic, key, operation, value, **more):
        ask = [{"resource_type": 2, "resource_name": topic, "configs": [{"name": key, "config_operation": operation, "value": value}]}]
        return self.ask("IncrementalAlterConfigs", 1, resources=ask, **more)["responses"][0]["error_code"]


def produce_body(topic, data, acks=-1, partition=0):
    return {"acks": acks, "timeout_ms": 5000, "topic_data": [{"name": topic, "partition_data": [{"index": partition, "records": data}]}]}


def fetch_body(topic, offset, max_wait_ms=0, min_bytes=1, max_bytes=1 << 20, **more):
    partition = {"partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20}
    partition.update({n: more.pop(n) for n in ("partition", "partition_max_bytes", "current_leader_epoch") if n in more})
    return {"max_wait_ms": max_wait_ms, "min_bytes": min_bytes, "max_bytes": max_bytes,
            "topics": [{"topic": topic, "partitions": [partition]}], **more}


def expect(what, got, wanted):
    assert got == wanted, f"{what}: {got}, not {wanted}"


def milliseconds(fn):
    start = time.monotonic()
    fn()
    return (time.monotonic() - start) * 1000


def bootstrap():
    """ApiVersions before anything else, in any version; Metadata by name, by id, of everything and of nothing."""
    with leat.Node() as node, Asker(node.kafka) as c:
        for version in range(5):
            more = {"client_software_name": "a.b-c", "client_software_version": "1"} if version >= 3 else {}
            keys = c.ask("ApiVersions", version, **more)["api_keys"]
            expect("order of keys", [k["api_key"] for k in keys], sorted(k["api_key"] for k in keys))
        expect("software -x", c.ask("ApiVersions", 3, client_software_name="-x", client_software_version="1")["error_code"], 42)
        body = struct.pack(">hhih", 18, 99, 7, 1) + b"c\0what ever"
        c.socket.sendall(struct.pack(">i", len(body)) + body)
        expect("unknown version", c.file.read(20), struct.pack(">iihihhh", 16, 7, 35, 1, 18, 0, 4))
        with Asker(node.kafka) as other:
            other.send("Metadata", 13)
            assert other.is_closed(), "a version that is not offered was answered"

        c.create("t", num_partitions=3)
        c.create("u")
        for version in range(13):
            t = c.ask("Metadata", version, topics=[{"name": "t"}])["topics"][0]
            expect("partitions", [p["partition_index"] for p in t["partitions"]], [0, 1, 2])
            all_of = c.ask("Metadata", version, topics=[] if version == 0 else None)["topics"]
            expect("all topics", [t["name"] for t in all_of], ["t", "u"])
        expect("no topics", c.ask("Metadata", 1, topics=[])["topics"], [])
        topic_id = c.metadata(name="t")["topic_id"]
        expect("by id", c.metadata(topic_id=topic_id, name=None)["name"], "t")
        t = c.metadata(topic_id=b"x" * 16, name=None)
        expect("unknown id", (t["error_code"], t["name"], t["topic_id"]), (100, None, b"x" * 16))
        expect("id in version 10", c.metadata(10, topic_id=topic_id, name=None)["error_code"], 42)
        expect("null name in version 11", c.metadata(11, name=None)["error_code"], 42)
        expect("unknown", c.metadata(name="no")["error_code"], 3)
        expect("no name", c.metadata(auto=True, name="a b")["error_code"], 17)
        m = c.ask("Metadata", 10, topics=[{"name": "t"}], include_cluster_authorized_operations=True, include_topic_authorized_operations=True)
        expect("operations", (m["cluster_authorized_operations"], m["topics"][0]["topic_authorized_operations"]), (8096, 3576))
        assert m["controller_id"] in [b["node_id"] for b in m["brokers"]]


def produce():
    """What a batch must be, and what producers hear of one that is not."""
    with leat.Node() as node, Asker(node.kafka) as c:
        c.create("t")
        c.create("append", configs=[{"name": "message.timestamp.type", "value": "LogAppendTime"}])
        c.create("compact", configs=[{"name": "cleanup.policy", "value": "compact"}])
        good = c.produce("t", batch(ONE))
        expect("answer", good, {"index": 0, "error_code": 0, "base_offset": 0, "log_append_time_ms": -1, "log_start_offset": 0,
                                "record_errors": [], "error_message": None})
        late = int(time.time() * 1000) + 7200000
        for what, error, args in (
                ("acks 2", 21, {"data": batch(ONE), "acks": 2}), ("no partition", 3, {"data": batch(ONE), "partition": 9}),
                ("two batches", 87, {"data": batch(ONE) * 2}), ("base offset", 87, {"data": batch(ONE, base_offset=5)}),
                ("magic 1", 87, {"data": batch(ONE, magic=1)}), ("CRC", 2, {"data": batch(ONE, crc=1)}),
                ("cut header", 2, {"data": batch(ONE)[:50]}), ("cut records", 2, {"data": batch(ONE)[:-1]}), ("null", 87, {"data": None}),
                ("count", 87, {"data": batch(ONE, count=2)}), ("last offset delta", 87, {"data": batch(ONE, last_offset_delta=3)}),
                ("control", 87, {"data": batch(ONE, attributes=0x20)}), ("producer without sequence", 87, {"data": batch(ONE, producer=(5, 0, -1))}),
                ("transaction", 48, {"data": batch(ONE, attributes=0x10, producer=(5, 0, 0))}), ("codec 5", 76, {"data": batch(ONE, attributes=5)}),
                ("zstd in version 6", 76, {"data": batch(ONE, attributes=4), "version": 6}),
                ("LogAppendTime by the producer", 32, {"data": batch(ONE, attributes=8)}), ("from the future", 32, {"data": batch(ONE, timestamp=late)}),
                ("too large", 10, {"data": batch([(b"k", b"v" * 1100000)])})):
            p = c.produce("t", **args)
            expect(what, (p["error_code"], p["base_offset"], p["log_append_time_ms"]), (error, -1, -1))
        p = c.produce("compact", batch([(b"k", b"v"), (None, b"v")]))
        expect("no key", (p["error_code"], [e["batch_index"] for e in p["record_errors"]]), (87, [1]))
        expect("unknown topic", c.produce("no", batch(ONE))["error_code"], 3)
        expect("timestamp -1", c.produce("t", batch(ONE, timestamp=-1))["base_offset"], 1)
        p = c.produce("append", batch(ONE, timestamp=5))
        assert p["error_code"] == 0 and abs(p["log_append_time_ms"] - time.time() * 1000) < 60000, p
        expect("its timestamp", c.list("append", -3)["timestamp"], p["log_append_time_ms"])
        for version in range(3, 12):
            expect("version", c.produce("t", batch(ONE), version)["error_code"], 0)
        with Asker(node.kafka) as other:  # no answer to acks=0; after an error the connection ends
            other.send("Produce", 9, **produce_body("t", batch(ONE), acks=0))
            expect("next answer", other.metadata(name="t")["error_code"], 0)
            other.send("Produce", 9, **produce_body("no", batch(ONE), acks=0))
            assert other.is_closed()


def idempotence():
    with leat.Node() as node, Asker(node.kafka) as c:
        c.create("t")
        for transactional_id, error in (("", 42), ("a", 53)):
            expect("transactional id", c.ask("InitProducerId", 4, transactional_id=transactional_id, transaction_timeout_ms=1000)["error_code"], error)
        ids = [c.ask("InitProducerId", v, transactional_id=None, transaction_timeout_ms=1000) for v in range(6)]
        assert len({i["producer_id"] for i in ids}) == 6 and all(i["producer_epoch"] == 0 for i in ids), ids
        pid = ids[0]["producer_id"]
        for epoch, sequence, error, offset in (
                (0, 0, 0, 0), (0, 1, 0, 1), (0, 0, 0, 0), (0, 5, 45, -1), (1, 2, 45, -1), (1, 0, 0, 2), (0, 2, 47, -1), (1, 1, 0, 3), (1, 2, 0, 4),
                (1, 3, 0, 5), (1, 4, 0, 6), (1, 5, 0, 7), (1, 1, 0, 3), (1, 0, 45, -1), (1, 7, 45, -1)):
            p = c.produce("t", batch(ONE, producer=(pid, epoch, sequence)))
            expect(f"epoch {epoch} sequence {sequence}", (p["error_code"], p["base_offset"]), (error, offset))
        expect("a producer nobody knows begins anywhere", c.produce("t", batch(ONE, producer=(pid + 500, 3, 77)))["error_code"], 0)
        expect("sequences wrap", [c.produce("t", batch(ONE * 2, producer=(pid + 501, 0, s)))["error_code"] for s in (2**31 - 2, 0, 2)], [0, 0, 0])


def fetch():
    """Ranges, bounds of size, sessions declined, epochs, and when a fetch waits."""
    with leat.Node() as node, Asker(node.kafka) as c:
        c.create("t")
        for _ in range(5):
            c.produce("t", batch([(b"k", b"v" * 100)] * 3))
        size = len(batch([(b"k", b"v" * 100)] * 3))
        for version in range(4, 13):
            for isolation, aborted in ((0, None), (1, [])):
                p = c.fetch("t", 0, version, isolation_level=isolation)
                expect("part", (p["high_watermark"], p["last_stable_offset"], len(p["records"])), (15, 15, 5 * size))
                expect("aborted transactions", p["aborted_transactions"], aborted)
        p = c.fetch("t", 4)
        expect("the batch that holds 4", (struct.unpack(">q", p["records"][:8])[0], len(p["records"])), (3, 4 * size))
        for offset, error in ((-1, 1), (15, 0), (16, 1)):
            p = c.fetch("t", offset)
            expect(f"at {offset}", (p["error_code"], p["records"]), (error, b""))  # null would break librdkafka
        for bound in ({"partition_max_bytes": 1}, {"partition_max_bytes": 0}, {"max_bytes": 1}, {"max_bytes": 0}, {"max_bytes": 2 * size - 1}):
            expect(f"{bound}", len(c.fetch("t", 0, **bound)["records"]), size)
        for epoch, error in ((-1, 0), (0, 0), (3, 75)):
            expect(f"leader epoch {epoch}", c.fetch("t", 0, current_leader_epoch=epoch)["error_code"], error)
        expect("unknown", (c.fetch("no", 0)["error_code"], c.fetch("t", 0, partition=7)["error_code"]), (3, 3))
        for session, epoch, error, topics in ((0, -1, 0, 1), (0, 0, 0, 1), (9, 0, 0, 1), (9, -1, 0, 1), (9, 1, 70, 0)):
            a = c.ask("Fetch", 12, **fetch_body("t", 0, session_id=session, session_epoch=epoch))
            expect(f"session {session}, {epoch}", (a["error_code"], a["session_id"], len(a["responses"])), (error, 0, topics))
        two = [{"partition": 0, "fetch_offset": at, "partition_max_bytes": 1 << 20} for at in (0, 3)]
        parts = c.ask("Fetch", 12, max_wait_ms=0, min_bytes=1, max_bytes=size, topics=[{"topic": "t", "partitions": two}])["responses"][0]["partitions"]
        expect("bytes go to the first", [len(p["records"]) for p in parts], [size, 0])

        assert 290 < (took := milliseconds(lambda: c.fetch("t", 15, max_wait_ms=300))) < 5000, took
        for body in ({"min_bytes": 0}, {"max_bytes": 0}, {"max_wait_ms": 0}):
            took = milliseconds(lambda: c.fetch("t", 15, **{"max_wait_ms": 8000, **body}))
            assert took < 5000, (body, took)
        assert milliseconds(lambda: c.fetch("no", 0, max_wait_ms=8000)) < 5000, "an error does not wait"
        with Asker(node.kafka) as other:
            for version in (4, 11, 12):
                end = c.offset("t", -1)
                other.send("Fetch", version, **fetch_body("t", end, max_wait_ms=10000))
                time.sleep(0.05)
                c.produce("t", batch(ONE))
                took = milliseconds(lambda: other.receive("Fetch", version))
                assert took < 5000, f"woken after {took} ms"


def offsets():
    """ListOffsets by every meaning of a timestamp, DeleteRecords."""
    with leat.Node() as node, Asker(node.kafka) as c:
        now = int(time.time() * 1000) - 100000
        c.create("t")
        c.create("empty")
        c.create("compact", configs=[{"name": "cleanup.policy", "value": "compact"}])
        for i in range(5):  # three records, the second is the newest
            c.produce("t", batch([(b"a", b"v"), (b"b", b"w", 10), (b"c", b"x", 5)], timestamp=now + i * 1000))
        for timestamp, offset in ((-1, 15), (-2, 0), (-3, 13), (-4, 0), (0, 0), (now, 0), (now + 5, 1), (now + 10, 1), (now + 11, 3),
                                  (now + 2001, 7), (now + 4010, 13), (now + 4011, -1)):
            expect(f"offset at {timestamp - now if timestamp > 0 else timestamp}", c.offset("t", timestamp), offset)
        expect("its timestamp", c.list("t", now + 5)["timestamp"], now + 10)
        for timestamp, since in ((-3, 7), (-4, 8)):
            for version in range(1, 9):
                expect(f"{timestamp} in version {version}", c.list("t", timestamp, version)["error_code"], 0 if version >= since else 35)
        for timestamp in (-5, -6, -2**63):
            expect(f"{timestamp}", c.list("t", timestamp)["error_code"], 35)
        expect("empty", [c.offset("empty", t) for t in (-1, -2, -3, 0)], [0, 0, -1, -1])
        expect("epoch", c.list("t", -1, current_leader_epoch=9)["error_code"], 75)
        twice = [{"partition_index": 0, "timestamp": t} for t in (-1, -2)]
        a = c.ask("ListOffsets", 8, replica_id=-1, topics=[{"name": "t", "partitions": twice}])["topics"][0]["partitions"]
        expect("a partition asked for twice", [p["error_code"] for p in a], [42, 42])

        for offset, answer in ((4, (0, 4)), (1, (0, 4)), (99, (1, -1)), (-2, (1, -1)), (-1, (0, 15))):
            expect(f"delete up to {offset}", c.delete_records("t", offset), answer)
        expect("start", (c.offset("t", -2), c.fetch("t", 3)["error_code"], c.fetch("t", 15)["log_start_offset"]), (15, 1, 15))
        expect("not deletable", (c.delete_records("compact", -1), c.delete_records("no", 0)), ((44, -1), (3, -1)))


def topics():
    """CreateTopics, CreatePartitions, DeleteTopics: every refusal, dry runs, assignments by hand."""
    with leat.Node("num.partitions=2\n") as node, Asker(node.kafka) as c:
        t = c.create("t")
        assert t["error_code"] == 0 and t["topic_id"] != bytes(16) and t["num_partitions"] == 1, t
        expect("its configs", {e["name"]: e["value"] for e in t["configs"]}, {e["name"]: e["value"] for e in c.describe(2, "t")["configs"]})
        assert {"retention.ms", "cleanup.policy", "segment.bytes"} <= {e["name"] for e in t["configs"]}, t
        expect("defaults", c.create("u", num_partitions=-1, replication_factor=-1)["num_partitions"], 2)
        by_hand = {"num_partitions": -1, "replication_factor": -1}
        for what, error, name, more in (
                ("exists", 36, "t", {}), ("exists, dry run", 36, "t", {"validate_only": True}), ("no partitions", 37, "x", {"num_partitions": 0}),
                ("replicas", 38, "x", {"replication_factor": 2}), ("name", 17, "a b", {}), ("long name", 17, "x" * 250, {}),
                ("unknown config", 40, "x", {"configs": [{"name": "nope", "value": "1"}]}),
                ("bad config", 40, "x", {"configs": [{"name": "retention.ms", "value": "x"}]}),
                ("no such broker", 39, "x", {**by_hand, "assignments": [{"partition_index": 0, "broker_ids": [9]}]}),
                ("broker twice", 39, "x", {**by_hand, "assignments": [{"partition_index": 0, "broker_ids": [1, 1]}]}),
                ("hole", 39, "x", {**by_hand, "assignments": [{"partition_index": 1, "broker_ids": [1]}]}),
                ("assignment and count", 42, "x", {"assignments": [{"partition_index": 0, "broker_ids": [1]}]})):
            expect(what, c.create(name, **more)["error_code"], error)
        expect("dry run", (c.create("dry", validate_only=True)["error_code"], c.metadata(name="dry")["error_code"]), (0, 3))
        expect("by hand", c.create("hand", **by_hand, assignments=[{"partition_index": 0, "broker_ids": [1]}])["error_code"], 0)
        expect("dots and underscores", (c.create("a.b")["error_code"], c.create("a_b")["error_code"]), (0, 17))
        same = [{"name": "twice", "num_partitions": 1, "replication_factor": 1}] * 2
        expect("twice", {t["error_code"] for t in c.ask("CreateTopics", 7, topics=same, timeout_ms=5000)["topics"]}, {42})

        def grow(name, count, assignments=None, **more):
            ask = [{"name": name, "count": count, "assignments": assignments}]
            return c.ask("CreatePartitions", 3, topics=ask, timeout_ms=5000, **more)["results"][0]["error_code"]
        for what, error, args in (("fewer", 37, ("t", 0)), ("as many", 37, ("t", 1)), ("unknown", 3, ("no", 5)), ("no broker", 39, ("t", 2, [{"broker_ids": [7]}])),
                                  ("assignments missing", 39, ("t", 3, [{"broker_ids": [1]}]))):
            expect(what, grow(*args), error)
        expect("dry run", (grow("t", 5, validate_only=True), len(c.metadata(name="t")["partitions"])), (0, 1))
        expect("grown", (grow("t", 3), len(c.metadata(name="t")["partitions"])), (0, 3))

        def delete(version=6, **topic):
            return c.ask("DeleteTopics", version, topics=[topic], timeout_ms=5000)["responses"][0]
        topic_id = c.metadata(name="t")["topic_id"]
        expect("unknown", (delete(name="no")["error_code"], delete(name=None, topic_id=b"y" * 16)["error_code"]), (3, 100))
        expect("both or none", (delete(name="t", topic_id=topic_id)["error_code"], delete(name=None)["error_code"]), (42, 42))
        expect("by id", (delete(name=None, topic_id=topic_id)["name"], c.metadata(name="t")["error_code"]), ("t", 3))


def configs():
    """DescribeConfigs with synonyms and documentation, all operations of IncrementalAlterConfigs, AlterConfigs replacing the set."""
    with leat.Node() as node, Asker(node.kafka) as c:
        c.create("t", configs=[{"name": "retention.ms", "value": "5000"}])
        everything = c.describe(2, "t", include_synonyms=True, include_documentation=True)["configs"]
        assert all(e["documentation"] and e["config_type"] > 0 for e in everything)
        retention = [e for e in everything if e["name"] == "retention.ms"][0]
        expect("synonyms", [(s["name"], s["value"], s["source"]) for s in retention["synonyms"]],
               [("retention.ms", "5000", 1), ("log.retention.ms", "604800000", 5)])
        expect("keys", [e["name"] for e in c.describe(2, "t", ["retention.ms", "nope"])["configs"]], ["retention.ms"])
        expect("plain", (c.describe(2, "t", ["retention.ms"])["configs"][0]["synonyms"], len(c.describe(2, "t", [])["configs"])), ([], len(everything)))
        for kind, name, error in ((2, "no", 3), (2, "a b", 17), (4, "1", 0), (4, "", 0), (4, "9", 42), (4, "x", 42), (8, "1", 42), (99, "x", 42)):
            expect(f"{kind} {name}", c.describe(kind, name)["error_code"], error)
        assert {"num.partitions", "default.replication.factor"} <= {e["name"] for e in c.describe(4, "1")["configs"]}

        for what, key, operation, value, error, after in (
                ("set", "retention.ms", 0, "7000", 0, ("7000", 1)), ("delete", "retention.ms", 1, None, 0, ("604800000", 5)),
                ("append", "cleanup.policy", 2, "compact", 0, ("delete,compact", 1)), ("append again", "cleanup.policy", 2, "compact", 0, ("delete,compact", 1)),
                ("subtract", "cleanup.policy", 3, "delete", 0, ("compact", 1)), ("subtract the last", "cleanup.policy", 3, "compact", 40, ("compact", 1)),
                ("append to a number", "retention.ms", 2, "1", 40, ("604800000", 5)), ("operation 7", "retention.ms", 7, "1", 42, ("604800000", 5)),
                ("bad value", "retention.ms", 0, "x", 40, ("604800000", 5)), ("null", "retention.ms", 0, None, 42, ("604800000", 5))):
            expect(what, (c.change("t", key, operation, value), c.value("t", key)), (error, after))
        expect("unknown", (c.change("t", "nope", 0, "1"), c.change("no", "retention.ms", 0, "1")), (40, 3))
        expect("dry run", (c.change("t", "retention.ms", 0, "9", validate_only=True), c.value("t", "retention.ms")), (0, ("604800000", 5)))
        c.change("t", "retention.ms", 0, "9000")
        ask = [{"resource_type": 2, "resource_name": "t", "configs": [{"name": "retention.bytes", "value": "100"}]}]
        expect("replace", c.ask("AlterConfigs", 2, resources=ask)["responses"][0]["error_code"], 0)
        expect("replaced", (c.value("t", "retention.ms"), c.value("t", "retention.bytes")), (("604800000", 5), ("100", 1)))


leat.main(bootstrap, produce, idempotence, fetch, offsets, topics, configs)
