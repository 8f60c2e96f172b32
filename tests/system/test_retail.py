#!/usr/bin/env python3
"""Real orders (Online Retail, UCI, CC BY 4.0) replayed: OrderPlaced (4 partitions), OrderCancelled (3), SignUp (2). Counts, order per
invoice and the digest of the values must match the source. Runs when the data file is beside the checkout in shared/data."""
import collections
import hashlib
import lzma
import pathlib

import leat

DATA = leat.SOURCE.parent / "shared" / "data" / "online-retail.csv.xz"
SHA256 = "c35975c40d0e1e105090fbb11188a409393055f873841bd012915475fc84e69f"


def frame(key, value):
    return len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value


def split(data):
    at = 0
    while at < len(data):
        n = int.from_bytes(data[at:at + 4], "big")
        key = data[at + 4:at + 4 + n]
        at += 4 + n
        n = int.from_bytes(data[at:at + 4], "big")
        yield key, data[at + 4:at + 4 + n]
        at += 4 + n


def retail():
    if not DATA.exists():
        leat.skip("online-retail.csv.xz is not beside the checkout")
    text = lzma.open(DATA).read()
    assert hashlib.sha256(text).hexdigest() == SHA256
    lines = text.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    topics = {"OrderPlaced": [], "OrderCancelled": [], "SignUp": []}
    seen = set()
    for line in lines[1:]:
        invoice = line.split(b",", 1)[0].strip(b'"')
        customer = line.rstrip(b"\r").rsplit(b",", 2)[-2]
        topics["OrderCancelled" if invoice.startswith(b"C") else "OrderPlaced"].append((invoice, line))
        if customer and customer not in seen:
            seen.add(customer)
            topics["SignUp"].append((customer, line))
    with leat.Node("offsets.topic.num.partitions=4\n") as node:
        for name, partitions in (("OrderPlaced", 4), ("OrderCancelled", 3), ("SignUp", 2)):
            node.mqctl("topic", "create", name, "-p", partitions)
            records = topics[name]
            node.mqctl("produce", name, "-f", "%K{big32}%k%V{big32}%v", input=b"".join(frame(k, v) for k, v in records), timeout=120)
            out = node.mqctl("consume", name, "-G", f"{name}-readers", "-n", len(records), "-f", "%K{big32}%k%V{big32}%v", timeout=120).out
            got = list(split(out))
            assert len(got) == len(records), (name, len(got), len(records))
            by_key = collections.defaultdict(list)
            for k, v in got:
                by_key[k].append(v)
            want = collections.defaultdict(list)
            for k, v in records:
                want[k].append(v)
            assert by_key == want, f"{name}: order within a key differs"
            digest = lambda rows: hashlib.sha256(b"\n".join(sorted(v for _, v in rows))).hexdigest()
            assert digest(got) == digest(records), name
            print(f"  {name}: {len(records)} records, {len(want)} keys, sha256 of sorted values {digest(got)[:16]}", flush=True)
        assert sum(len(topics[t]) for t in ("OrderPlaced", "OrderCancelled")) == 541909


leat.main(retail)
