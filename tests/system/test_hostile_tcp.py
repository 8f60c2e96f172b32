#!/usr/bin/env python3
"""Hostile TCP clients: impossible lengths, bombs, half frames, floods, clients that never read. Closed or bounded; others unaffected."""
import os
import random
import socket
import struct
import threading
import time
import zlib

import leat


def connect(node, timeout=5):
    host, port = node.kafka.rsplit(":", 1)
    s = socket.create_connection((host, int(port)), timeout)
    return s


def closed(s, timeout=5):
    s.settimeout(timeout)
    try:
        return s.recv(1) == b""
    except ConnectionResetError:
        return True
    except socket.timeout:
        return False


def header(api, version, corr=1, client=b"x", flexible=False):
    return struct.pack(">hhih", api, version, corr, len(client)) + client + (b"\0" if flexible else b"")


def frame(body):
    return struct.pack(">i", len(body)) + body


def api_versions(s):
    s.sendall(frame(header(18, 0)))
    n = struct.unpack(">i", recv_exact(s, 4))[0]
    return recv_exact(s, n)


def recv_exact(s, n):
    out = b""
    while len(out) < n:
        part = s.recv(n - len(out))
        assert part, "closed by the broker"
        out += part
    return out


def broker_rss_mib(node, what="VmRSS"):
    status = dict(line.split(":", 1) for line in open(f"/proc/{node.pids()['broker']}/status"))
    return int(status[what].split()[0]) / 1024


def healthy(node, before_pid):
    start = time.monotonic()
    with connect(node) as s:
        api_versions(s)
    assert node.pids()["broker"] == before_pid, "the broker died"
    assert time.monotonic() - start < 3, "others are held up"


def lengths_and_bombs():
    with leat.Node() as node:
        node.mqctl("topic", "create", "t")
        pid = node.pids()["broker"]
        for size in (2**31 - 1, -1, -2**31, 104857601, 0, 3, 7, 0x47455420, 0x16030100):
            with connect(node) as s:
                s.sendall(struct.pack(">i", size) + b"x" * 16)
                if 0 <= size < 8 or size < 0 or size > 104857600:
                    assert closed(s), f"size {size} was not refused"
            healthy(node, pid)
        bombs = {
            "metadata count": header(3, 1) + struct.pack(">i", 2**31 - 1),
            "metadata negative count": header(3, 1) + struct.pack(">i", -2),
            "produce count": header(0, 7) + struct.pack(">hhii", -1, 1, 1000, 2**30),
            "fetch count": header(1, 4) + struct.pack(">iiiibi", -1, 100, 1, 1000, 0, 2**31 - 1),
            "flexible count": header(3, 12, flexible=True) + b"\xff\xff\xff\xff\x0f",
            "flexible tags": header(18, 3, flexible=True) + b"\x02a\x02b" + b"\xff\xff\xff\xff\x0f",
            "string beyond the frame": header(10, 0) + struct.pack(">h", 32767),
            "unknown api": header(999, 0),
            "version too high": header(3, 99),
            "client id beyond the frame": struct.pack(">hhih", 3, 1, 1, 30000),
        }
        for name, body in bombs.items():
            with connect(node) as s:
                s.sendall(frame(body))
                assert closed(s), f"{name}: not closed"
            healthy(node, pid)
        assert broker_rss_mib(node) < 200


def random_bytes():
    with leat.Node() as node:
        node.mqctl("topic", "create", "t")
        pid = node.pids()["broker"]
        rng = random.Random(3)
        for _ in range(400):
            api = rng.choice([0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 32, 33, 37, 42, 44, 47])
            body = header(api, rng.randrange(0, 13), flexible=rng.random() < 0.5) + rng.randbytes(rng.randrange(0, 200))
            with connect(node) as s:
                s.sendall(frame(body))
        healthy(node, pid)


def compressed_bomb():
    """A batch of some kilobytes that expands to gigabytes: refused within bounded memory."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "t")
        pid = node.pids()["broker"]
        co = zlib.compressobj(9, zlib.DEFLATED, 31)
        records = b"".join(co.compress(bytes(1 << 20)) for _ in range(600)) + co.flush()
        s = connect(node)
        s.sendall(frame(produce(batch(records, 1, 1))))
        s.settimeout(20)
        answer = recv_exact(s, struct.unpack(">i", recv_exact(s, 4))[0])
        s.close()
        error = struct.unpack_from(">h", answer, 4 + 4 + 2 + len("t") + 4 + 4)[0]
        assert error in (2, 10, 87), error  # CORRUPT_MESSAGE, MESSAGE_TOO_LARGE, INVALID_RECORD
        healthy(node, pid)
        peak = broker_rss_mib(node, "VmHWM")
        assert peak < 400, f"{peak:.0f} MiB at its worst"
        assert node.mqctl("consume", "t", "-r", ":end").out == b""


def crc32c(data):
    crc = 0xFFFFFFFF
    for b in data:
        crc ^= b
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def batch(records, codec, count):
    body = struct.pack(">hiqqqhii", codec, count - 1, 0, 0, -1, -1, -1, count) + records
    return struct.pack(">qiib", 0, len(body) + 9, -1, 2) + struct.pack(">I", crc32c(body)) + body


def produce(data, acks=-1):
    return (header(0, 7) + struct.pack(">h", -1) + struct.pack(">hi", acks, 5000) + struct.pack(">i", 1) + struct.pack(">h", 1) + b"t"
            + struct.pack(">i", 1) + struct.pack(">i", 0) + struct.pack(">i", len(data)) + data)


def half_frames_and_flood():
    with leat.Node("max.connections=3000\nmax.connections.per.ip=3000\n") as node:
        node.mqctl("topic", "create", "t")
        pid = node.pids()["broker"]
        before = broker_rss_mib(node)
        conns = []
        for i in range(2000):
            s = connect(node)
            if i % 2:
                s.sendall(struct.pack(">i", 50_000_000) + b"\0\0")  # announces much, sends nothing
            conns.append(s)
        healthy(node, pid)
        grown = broker_rss_mib(node) - before
        assert grown < 200, f"2,000 connections cost {grown:.0f} MiB"
        start = time.monotonic()
        node.mqctl("produce", "t", "-f", "%v\n", input="x\n" * 1000)
        assert time.monotonic() - start < 3
        for s in conns:
            s.close()
        healthy(node, pid)


def connection_limit():
    with leat.Node("max.connections=50\n") as node:
        pid = node.pids()["broker"]
        conns = [connect(node) for _ in range(80)]
        time.sleep(0.3)
        alive = sum(1 for s in conns if not closed(s, 0.01))
        assert 40 <= alive <= 50, alive
        for s in conns:
            s.close()
        leat.wait_until("room again", lambda: can_talk(node), 5)
        assert node.pids()["broker"] == pid


def can_talk(node):
    try:
        with connect(node) as s:
            api_versions(s)
        return True
    except (AssertionError, OSError):
        return False


def never_reads():
    """A client that asks for megabytes again and again and never reads: bounded, then closed."""
    with leat.Node() as node:
        node.mqctl("topic", "create", "t")
        node.mqctl("produce", "t", "-f", "%V{big32}%v", input=(500000).to_bytes(4, "big") + os.urandom(500000))
        pid = node.pids()["broker"]
        before = broker_rss_mib(node)
        s = connect(node)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = header(1, 4) + struct.pack(">iiiibi", -1, 0, 1, 50_000_000, 0, 1) + struct.pack(">h", 1) + b"t" + struct.pack(">i", 1) + struct.pack(">iqi", 0, 0, 50_000_000)
        stop = time.monotonic() + 20
        s.settimeout(1)
        try:
            while time.monotonic() < stop:
                s.sendall(frame(body))
        except (socket.timeout, OSError):
            pass
        healthy(node, pid)
        grown = broker_rss_mib(node) - before
        assert grown < 150, f"a client that never reads cost {grown:.0f} MiB"
        leat.wait_until("the connection is closed", lambda: node.mqctl("status", "-o", "json").json()["connections"] == 0, 20, 0.5)
        s.close()


def acks_zero_error_closes():
    with leat.Node() as node:
        with connect(node) as s:
            s.sendall(frame(produce(batch(b"\x0c\0\0\0\x01\0\0", 0, 1), acks=0)))  # topic t does not exist
            assert closed(s)


leat.main(lengths_and_bombs, random_bytes, compressed_bomb, half_frames_and_flood, connection_limit, never_reads, acks_zero_error_closes)
