#!/usr/bin/env python3
"""A hostile local client scribbles over its session while others work: only it is dropped, the log holds valid batches alone, nothing of
the others is lost. Once from our own uid, once, as root, from another one that is a member of group leat-clients and no more."""
import json
import os
import pathlib
import shutil
import subprocess
import time

import leat


def scribbler():
    with leat.Node("offsets.topic.num.partitions=2\n") as node:
        node.mqctl("topic", "create", "t", "-p", "4")
        node.mqctl("topic", "create", "victim", "-p", "2")
        pids = node.pids()
        steady = node.producer("t", 1, node.dir / "w.log", 2000)
        reader = node.consumer("t", "g", node.dir / "c.log")
        time.sleep(0.3)
        attackers = [subprocess.Popen([leat.BUILD / "tests" / "system" / "hostile_session", node.socket, "victim", "8", str(seed)], stdout=subprocess.PIPE)
                     for seed in (1, 2)]
        rounds = sum(int(a.communicate(timeout=60)[0] or 0) for a in attackers)
        assert rounds > 50, rounds
        assert all(a.returncode in (0, -11, -7) for a in attackers), [a.returncode for a in attackers]  # it may well hurt itself
        assert node.pids() == pids, "a daemon died of a hostile client"
        assert steady.poll() is None and reader.poll() is None
        time.sleep(0.5)
        assert leat.end(steady) == [0]
        history = leat.History([node.dir / "w.log"])
        final = leat.read_all(node, "t")
        leat.check_log(history, final)
        leat.wait_until("the group read all", lambda: all(p["lag"] == 0 for p in node.mqctl("group", "describe", "g", "-o", "json").json()["partitions"]), 20, 0.2)
        leat.end(reader)
        leat.wait_until("its sessions are gone", lambda: node.status()["counters"]["broker"]["sessions"] <= 4, 10, 0.2)
        node.stop()
        node.mqctl("log", "verify", "--all")
        print(f"  {rounds} hostile rounds, {len(final)} records of others intact", flush=True)


CLIENTS_GID, MEMBER, STRANGER = 64999, 65533, 65534


class NodeWithGroups(leat.Node):
    """A sandbox that knows the groups of an installed node: it starts under an /etc/group of its own."""

    def start(self, timeout=60):
        groups = self.dir / "group"
        others = [line for line in pathlib.Path("/etc/group").read_text().splitlines() if not line.startswith("leat-")]
        groups.write_text("\n".join([*others, f"leat-clients:x:{CLIENTS_GID}:", ""]))
        start = f'mount --bind {groups} /etc/group && exec "$@"'
        r = leat.run(["unshare", "--mount", "sh", "-c", start, "sh", leat.MQCTL, "sandbox", "start", "--dir", self.dir, "--port", self.port,
                      "-o", "json"], timeout=timeout)
        self.info = r.json()["nodes"][0]
        for d in (self.dir, *pathlib.Path(self.socket).parents):
            if d.is_relative_to(self.dir):
                d.chmod(0o711)


def another_user():
    leat.need_root()
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        leat.skip("needs mount namespaces")
    with NodeWithGroups("offsets.topic.num.partitions=2\n") as node:
        tools = node.dir / "tools"  # the build may lie where others cannot look
        tools.mkdir(mode=0o755)
        for f in (leat.MQCTL, leat.BUILD / "tests" / "system" / "hostile_session"):
            shutil.copy(f, tools / f.name)

        def as_user(uid, gid, *args, input=None):
            p = subprocess.run([str(a) for a in args], input=input, capture_output=True, timeout=60, user=uid, group=gid, extra_groups=[],
                               env={**os.environ, "HOME": "/nonexistent", "LD_LIBRARY_PATH": ""})
            return p.returncode, p.stdout, p.stderr.decode(errors="replace")

        def member(*args, input=None):
            return as_user(MEMBER, CLIENTS_GID, tools / "mqctl", "-b", node.bootstrap, *args, input=input)

        for topic in ("t", "steady", "victim"):
            node.mqctl("topic", "create", topic, "-p", "2")
        code, out, err = as_user(STRANGER, STRANGER, tools / "mqctl", "-b", node.bootstrap, "topic", "list")
        assert code != 0 and "leat-clients" in err, (code, out, err)
        code, _, err = member("produce", "t", "-f", "%v\\n", input=b"mine\n")
        assert code == 0, err
        code, out, err = member("consume", "t", "-G", "g", "-n", "1", "-f", "%v\\n")
        assert (code, out) == (0, b"mine\n"), (code, out, err)
        for refused in (("topic", "create", "x"), ("topic", "delete", "t", "--yes"), ("topic", "alter", "t", "--config", "retention.ms=1"),
                        ("topic", "trim", "t", "--before", "end", "--yes"), ("group", "delete", "g", "--yes"), ("produce", "__consumer_offsets", "-f", "%v\\n")):
            code, _, err = member(*refused, input=b"x\n")
            assert code != 0 and ("AUTHORIZATION" in err or "INVALID_TOPIC" in err), (refused, code, err)
        names = {t["topic"] for t in json.loads(node.mqctl("topic", "list", "-o", "json").out)["topics"]}
        assert "t" in names and "x" not in names, names
        broker = node.pids()["broker"]
        code, _, _ = as_user(MEMBER, CLIENTS_GID, "ls", f"/proc/{broker}/fd")
        assert code != 0, "the broker's descriptors can be opened by its clients"

        pids = node.pids()
        steady = node.producer("steady", 1, node.dir / "w.log", 1000)
        attack = subprocess.Popen([tools / "hostile_session", node.socket, "victim", "4", "3"], stdout=subprocess.PIPE,
                                  user=MEMBER, group=CLIENTS_GID, extra_groups=[])
        rounds = int(attack.communicate(timeout=60)[0] or 0)
        assert rounds > 25 and attack.returncode in (0, -11, -7), (rounds, attack.returncode)
        assert node.pids() == pids, "a daemon died of a hostile client"
        assert leat.end(steady) == [0]
        leat.check_log(leat.History([node.dir / "w.log"]), leat.read_all(node, "steady"))


leat.main(scribbler, another_user)
