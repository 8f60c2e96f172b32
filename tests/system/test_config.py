#!/usr/bin/env python3
"""A key takes effect when the catalogue says it does: live keys with the reload, for all daemons and what is connected already;
dynamic broker keys and topic keys when they are altered; keys without meaning warn."""
import time

import kafka_wire
import leat
from kafka_wire import batch


def reload(node, **keys):
    """Sets the keys (a_b for a.b), none of which may wait for a restart."""
    text = "".join(f"{name.replace('_', '.')} = {value}\n" for name, value in keys.items())
    (node.dir / "1" / "conf.d" / "live.conf").write_text(text)
    answer = node.mqctl("supervisor", "reload", "-o", "json").json()
    assert not answer["waits"], answer
    return answer


def closes(client, seconds):
    """The broker closes the connection within that time."""
    client.socket.settimeout(seconds)
    try:
        return client.socket.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def is_served(node):
    with kafka_wire.Client(node.kafka) as c:
        try:
            return bool(c.ask("ApiVersions", 0)["api_keys"])
        except (AssertionError, ConnectionError, OSError):
            return False


def create(c, name, **configs):
    topic = {"name": name, "num_partitions": 1, "replication_factor": 1, "configs": [{"name": k, "value": v} for k, v in configs.items()]}
    assert c.ask("CreateTopics", 7, topics=[topic], timeout_ms=5000)["topics"][0]["error_code"] == 0


def produce(c, topic, data):
    body = {"acks": -1, "timeout_ms": 5000, "topic_data": [{"name": topic, "partition_data": [{"index": 0, "records": data}]}]}
    p = c.ask("Produce", 9, **body)["responses"][0]["partition_responses"][0]
    assert p["error_code"] == 0, p


def alter(c, kind, name, key, value):
    ask = [{"resource_type": kind, "resource_name": name, "configs": [{"name": key, "config_operation": 0, "value": value}]}]
    return c.ask("IncrementalAlterConfigs", 1, resources=ask)["responses"][0]["error_code"]


def start_of(c, topic):
    ask = [{"name": topic, "partitions": [{"partition_index": 0, "timestamp": -2}]}]
    return c.ask("ListOffsets", 5, replica_id=-1, topics=ask)["topics"][0]["partitions"][0]["offset"]


def join(c, session_ms):
    return c.ask("JoinGroup", 5, group_id="g", session_timeout_ms=session_ms, rebalance_timeout_ms=1000, member_id="", protocol_type="consumer",
                 protocols=[{"name": "range", "metadata": b""}])["error_code"]


def live():
    """Keys of broker (TCP, logs), controller, coordinator and supervisor, each changed by a reload and seen at work."""
    with leat.Node("offsets.topic.num.partitions = 2\n") as node, kafka_wire.Client(node.kafka) as c, kafka_wire.Client(node.kafka) as idle:
        create(c, "t")
        produce(c, "t", batch([(b"k", b"v")]))
        assert c.ask("Metadata", 9, topics=[{"name": "made"}], allow_auto_topic_creation=True)["topics"][0]["error_code"] in (0, 5)
        leat.wait_until("the group exists", lambda: join(c, 10000) == 79, 20)  # a member id is asked for

        reload(node, auto_create_topics_enable="false")
        assert c.ask("Metadata", 9, topics=[{"name": "not-made"}], allow_auto_topic_creation=True)["topics"][0]["error_code"] == 3
        reload(node, delete_topic_enable="false")
        assert c.ask("DeleteTopics", 4, topic_names=["t"], timeout_ms=5000)["responses"][0]["error_code"] == 73
        reload(node, group_max_session_timeout_ms="9000")
        assert join(c, 10000) == 26
        reload(node, max_connections_per_ip_overrides="10.0.0.1:9,127.0.0.1:2")
        assert not is_served(node)  # c and idle are two
        reload(node, log_retention_ms="1", log_retention_check_interval_ms="200")
        leat.wait_until("the record is gone", lambda: start_of(c, "t") == 1, 10, 0.2)
        reload(node, connections_max_idle_ms="1500")
        assert closes(idle, 5), "the time-out of before counts"
        c.close()
        reload(node, message_max_bytes="1000", socket_request_max_bytes="1200")
        with kafka_wire.Client(node.kafka) as small:
            small.ask("Metadata", 9, topics=None)
            small.send("Metadata", 9, topics=[{"name": "x" * 200}] * 10)
            assert closes(small, 5)
        reload(node, child_hang_ms="3000")
        before = node.pids()["consumer-coord"]
        began = time.monotonic()
        node.kill("consumer-coord", "STOP")
        leat.wait_until("the supervisor ends it", lambda: node.pids()["consumer-coord"] != before, 9, 0.1)
        assert time.monotonic() - began > 2
        node.mqctl("wait", "healthy", "--timeout", "20s")
        answer = reload(node, num_io_threads="8")
        assert any("num.io.threads is ignored" in line for line in answer["warnings"]), answer


def altered():
    """Dynamic broker keys and topic keys: the next connection and the next batch follow them."""
    noise = bytes((i * i * 7 + i // 11) % 251 % 37 for i in range(60000))
    with leat.Node() as node, kafka_wire.Client(node.kafka) as c:
        assert is_served(node)
        assert alter(c, 4, "1", "max.connections.per.ip.overrides", "nonsense") == 40
        assert alter(c, 4, "1", "queued.max.request.bytes", "1000000") == 40  # leat.conf only
        for name in ("", "1"):  # all brokers; this one, which counts more
            assert alter(c, 4, name, "max.connections.per.ip", "1") == 0
            leat.wait_until("one connection is enough", lambda: not is_served(node), 5)
            assert alter(c, 4, name, "max.connections.per.ip", "100") == 0
            leat.wait_until("many are again", lambda: is_served(node), 5)
        for level in ("1", "9"):
            create(c, f"gzip-{level}", **{"compression.type": "gzip", "compression.gzip.level": level})
            produce(c, f"gzip-{level}", batch([(b"k", noise)]))
        node.stop()
        sizes = [sum(s.stat().st_size for s in node.segments(f"gzip-{level}")) for level in ("1", "9")]
        assert 0 < sizes[1] < sizes[0] < len(noise), sizes


leat.main(live, altered)
