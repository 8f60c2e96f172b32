#!/usr/bin/env python3
"""Mixed soak: local and Kafka clients, groups that members join and leave, topics that come and go, retention of small segments and
compaction, while resident memory, descriptors and threads of every daemon are sampled. Once warm they stay where they are (K24), and
what was acknowledged is there (K1-K5). `--cycles N` is its length in rounds of about five seconds: 120 for ten minutes."""
import os
import time

import leat

CYCLES = leat.cycles(10)
WARM = max(3, CYCLES // 4)  # rounds before the baseline: caches, arenas and pools are filled once
RSS_SLACK_MIB = 8


def usage(pid):
    status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    return int(status["VmRSS"].split()[0]) / 1024, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


def sample(node):
    """The least of some looks: a pass of the compaction has a thread and files of its own while it runs."""
    pids, looks = {"supervisor": node.info["supervisor_pid"], **node.pids()}, []
    for _ in range(10):
        looks.append({role: usage(pid) for role, pid in pids.items()})
        time.sleep(0.05)
    return {role: tuple(map(min, zip(*(look[role] for look in looks)))) for role in pids}


def one_round(node, i):
    """Everything that may come and go does so once; at its end only the steady clients are there."""
    members = [node.workload("consume", where, "steady", "comers", node.dir / "member.log") for where in (node.bootstrap, node.kafka)]
    name = f"passing-{i}"
    node.mqctl("topic", "create", name, "-p", "3", "-c", "segment.bytes=1M")
    for where in (node.bootstrap, node.kafka):
        leat.run([leat.MQCTL, "-b", where, "produce", name, "-f", "%k:%v\n"], input=b"".join(b"%d:%s\n" % (k % 7, b"x" * 500) for k in range(4000)))
        leat.run([leat.MQCTL, "-b", where, "consume", name, "-G", f"{name}-group", "-n", "2000", "-f", "%v\n"])
    node.mqctl("topic", "alter", name, "-c", "retention.ms=60000")
    node.mqctl("topic", "trim", name, "--before", "end", "-y")
    assert leat.end(*members) == [0, 0]
    node.mqctl("group", "delete", f"{name}-group", "-y")
    node.mqctl("topic", "delete", name, "-y")


def soak():
    conf = "offsets.topic.num.partitions=4\nlog.retention.check.interval.ms=1000\nlog.cleaner.backoff.ms=1000\n"
    with leat.Node(conf) as node:
        small = ("-c", "segment.bytes=1M", "-c", "segment.ms=5000")
        node.mqctl("topic", "create", "steady", "-p", "4")
        node.mqctl("topic", "create", "short", "-p", "2", *small, "-c", "retention.bytes=2M")
        node.mqctl("topic", "create", "table", "-p", "2", *small, "-c", "cleanup.policy=compact", "-c", "min.cleanable.dirty.ratio=0.1")
        log = node.dir / "steady.log"
        producers = [node.producer("steady", 1, log, 400), node.producer("short", 2, node.dir / "short.log", 2000),
                     node.producer("table", 3, node.dir / "table.log", 1000),
                     node.workload("produce", node.kafka, "short", 4, 1000, node.dir / "short-tcp.log")]
        consumers = [node.consumer("steady", "g", node.dir / "g1.log"), node.workload("consume", node.kafka, "steady", "g", node.dir / "g2.log"),
                     node.consumer("short", "s", node.dir / "s.log"), node.consumer("table", "t", node.dir / "table-read.log")]
        pids, base = node.pids(), None
        for i in range(CYCLES):
            start = time.monotonic()
            one_round(node, i)
            time.sleep(max(0, 5 - (time.monotonic() - start)))
            now = sample(node)
            print(f"  {i + 1:3} " + "  ".join(f"{role} {rss:.1f} MiB {fds} fds {threads} threads" for role, (rss, fds, threads) in now.items()), flush=True)
            if i + 1 == WARM:
                base = now
        assert node.pids() == pids, "a daemon was restarted"
        assert all(p.poll() is None for p in producers + consumers), "a client ended by itself"
        for role, (rss, fds, threads) in now.items():
            was = base[role]
            assert fds <= was[1] + 10, f"{role}: {was[1]} descriptors became {fds}"
            assert threads <= was[2], f"{role}: {was[2]} threads became {threads}"
            assert rss <= was[0] + RSS_SLACK_MIB, f"{role}: {was[0]:.1f} MiB became {rss:.1f}"
        segments = [f for p in (0, 1) for topic in ("short", "table") for f in (node.data / "log" / f"{topic}-{p}").glob("*.log")]
        assert sum(f.stat().st_size for f in segments) < 40 << 20, "neither retention nor compaction"
        assert leat.end(*producers) == [0] * 4
        n = leat.check_log(leat.History([log]), leat.read_all(node, "steady"))
        assert leat.end(*consumers) == [0] * 4
        print(f"  {CYCLES} rounds, {n} records of the steady topic intact", flush=True)


leat.main(soak)
