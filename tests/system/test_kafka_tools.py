#!/usr/bin/env python3
"""The log on disk against Kafka's own code: DumpLogSegments and LogManager of Kafka 4.1 read what Leat wrote, also after a kill,
and Leat goes on with what Kafka appended and compacted. Needs java, javac, Maven and a registry that answers."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import leat

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
CONF = "log.index.interval.bytes=500\nlog.cleaner.backoff.ms=100\noffsets.topic.num.partitions=2\n"


def kafka_classes():
    """Class path of Kafka's jars and KafkaLogs; both stay in a cache."""
    for tool in ("java", "javac", "mvn"):
        if not shutil.which(tool):
            leat.skip(f"{tool} is not installed")
    src = pathlib.Path(__file__).parent / "kafka-tools"
    cache = pathlib.Path(os.environ.get("LEAT_JAVA_DIR", tempfile.gettempdir())) / "leat-kafka-tools"
    pom, jars = cache / "pom.xml", cache / "jars"
    if not pom.exists() or pom.read_bytes() != (src / "pom.xml").read_bytes():
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        r = subprocess.run(["mvn", "-q", "-B", "-f", src / "pom.xml", "dependency:copy-dependencies", f"-DoutputDirectory={jars}"],
                           capture_output=True, timeout=500)
        text = r.stdout.decode(errors="replace")
        if r.returncode != 0 and ("transfer" in text or "resolve" in text):
            leat.skip("the Maven registry cannot be reached: " + text[:200])
        assert r.returncode == 0, text[-2000:]
        shutil.copy(src / "pom.xml", pom)  # last: says that the jars are complete
    path = f"{cache}:{jars}/*"
    leat.run(["javac", "-cp", path, "-d", cache, src / "KafkaLogs.java"], timeout=120)
    return path


def java(path, *args):
    r = leat.run(["java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", path, *args], timeout=120)
    return r.out.decode(), r.err.decode()


def dump(path, files, *options):
    out, err = java(path, "kafka.tools.DumpLogSegments", "--files", ",".join(map(str, files)), *options)
    assert "Exception" not in err and "isvalid: false" not in out, err + out[-2000:]
    for bad in ("ismatch", "Non-", "Found ", "unordered", "corrupt", "Failed"):
        assert bad not in out, out[out.index(bad):][:500]
    return out


class KafkaRun:
    """What KafkaLogs said."""

    def __init__(self, path, directory, *verb):
        out, self.complaints = java(path, "KafkaLogs", directory, *verb)
        self.logs, self.records = {}, {}
        for line in out.splitlines():
            f = line.split("\t")
            if f[0] == "clean":
                self.clean = f[1] == "true"
            elif f[0] == "log":
                self.logs[f[1], int(f[2])] = dict(zip(("start", "end", "segments", "epoch", "producers"), map(int, f[3:])))
            else:
                self.records[f[1], int(f[2]), int(f[3])] = (int(f[4]), f[5], f[6])

    def of(self, *topics):
        return {k: v for k, v in self.records.items() if k[0] in topics}


def read_leat(node, *topics):
    out = {}
    for t in topics:
        for line in node.mqctl("consume", t, "-r", ":end", "-o", "jsonl").out.splitlines():
            m = json.loads(line)
            out[t, m["partition"], m["offset"]] = (m["ts"], m["key"], m["value"])
    return out


def produce(node, topic, codec, n=400, text=""):
    lines = "".join(f"k{i % 37}:{codec}-{text}-{'x' * 50}-{i}\n" for i in range(n))
    node.mqctl("produce", topic, "-f", "%k:%v\n", "-X", f"compression.type={codec}", "-X", "batch.size=1000", input=lines)


def is_compacted(node, topic):
    text = (node.data / "log" / "cleaner-offset-checkpoint").read_text()
    return any(line.startswith(topic + " ") for line in text.splitlines()[2:])


def fill(node):
    small = ("-c", "segment.bytes=20000")
    node.mqctl("topic", "create", "t", "-p", "2", *small)
    node.mqctl("topic", "create", "c", "-p", "1", *small, "-c", "cleanup.policy=compact", "-c", "min.cleanable.dirty.ratio=0.01")
    node.mqctl("topic", "create", "trimmed", "-p", "1", *small)
    for codec in CODECS:
        for t in ("t", "c", "trimmed"):
            produce(node, t, codec)
    node.mqctl("topic", "trim", "trimmed", "--before", "777", "-y")
    node.mqctl("consume", "t", "-G", "g", "-n", "500")
    leat.wait_until("c is compacted", lambda: is_compacted(node, "c"), 30, 0.1)


def tools():
    path = kafka_classes()
    with leat.Node(CONF) as node:
        fill(node)
        log = node.data / "log"
        before = read_leat(node, "t", "c", "trimmed")
        node.stop()

        # Kafka's tool over every file: batches, records, both indexes, snapshots
        files = [f for f in sorted(log.glob("*/*")) if f.suffix in (".log", ".index", ".timeindex", ".snapshot") and f.parent.name[0] != "_"]
        assert len([f for f in files if f.suffix == ".index"]) > 6, files
        out = dump(path, files, "--print-data-log")
        assert out.count("| offset: ") >= len(before) and "producerEpoch: 0 coordinatorEpoch: -1" in out
        indexes = [f for f in files if f.suffix.endswith("index")]
        dump(path, indexes, "--verify-index-only")
        out = dump(path, indexes, "--index-sanity-check")
        assert out.count("passed sanity check.") + out.count("is empty.") == len(indexes), out
        out = dump(path, sorted(log.glob("__consumer_offsets-*/*.log")), "--offsets-decoder", "--print-data-log")
        assert '"group":"g","topic":"t","partition":0' in out and '"protocolType":"consumer"' in out, out

        # Kafka's LogManager: checkpoints, clean marker, epochs, producers, every record
        copy = node.dir / "copy"
        shutil.copytree(log, copy)
        k = KafkaRun(path, copy, "read")
        assert k.clean and k.of("t", "c", "trimmed") == before
        assert k.logs["trimmed", 0]["start"] == 777 and k.logs["t", 1]["producers"] == len(CODECS) and k.logs["t", 0]["epoch"] >= 0, k.logs
        # nothing had to be rebuilt, but the indexes that a log of a few batches does not have (docs/formats/log.md)
        assert not [c for c in k.complaints.splitlines() if "internals" in c and "partition=__consumer_offsets" not in c], k.complaints

        # Kafka appends as a producer that it knows only from our snapshot, and compacts; Leat goes on with the result
        KafkaRun(path, log, "append", "t", "0", "0", "200")
        KafkaRun(path, log, "append", "c", "0", "1", "200")
        k = KafkaRun(path, log, "clean", "c", "0")
        assert len(k.of("c")) < 200 and k.logs["t", 0]["end"] > 600 and k.logs["t", 0]["segments"] > 3, k.logs
        assert node.mqctl("log", "verify", "--all", "--deep").code == 0
        node.start()
        assert read_leat(node, "t", "c", "trimmed") == k.of("t", "c", "trimmed")
        produce(node, "t", "zstd", text="again")
        produce(node, "c", "zstd", text="again")
        assert node.mqctl("group", "describe", "g", check=False).code == 0


def after_a_kill():
    """Without a clean stop, Kafka's recovery finds what Leat acknowledged, and Leat's what Kafka's wrote without a marker."""
    path = kafka_classes()
    with leat.Node(CONF) as node:
        node.mqctl("topic", "create", "t", "-p", "1", "-c", "segment.bytes=20000")
        for codec in CODECS:
            produce(node, "t", codec)
        before = read_leat(node, "t")
        node.kill("supervisor")
        leat.wait_until("all are gone", lambda: "running" not in leat.run([leat.MQCTL, "sandbox", "status", "--dir", node.dir], check=False).out.decode(), 10)
        copy = node.dir / "copy"
        shutil.copytree(node.data / "log", copy)
        k = KafkaRun(path, copy, "read")
        assert not k.clean and k.of("t") == before and k.logs["t", 0]["end"] == len(before), k.logs
        node.start()
        node.stop()
        k = KafkaRun(path, node.data / "log", "append", "t", "0", "0", "200")
        (node.data / "log" / ".kafka_cleanshutdown").unlink()
        node.start()
        assert read_leat(node, "t") == k.of("t")


leat.main(tools, after_a_kill)
