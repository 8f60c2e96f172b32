#!/usr/bin/env python3
"""Under a real systemd: a small Debian root (debootstrap) boots in systemd-nspawn, Leat is installed into it, and a person's
life with it is played: start to READY, STATUS, reload, watchdog, crash, clean stop, two instances, a local user consuming."""
import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import leat

PACKAGES = ("systemd,systemd-sysv,dbus,liblmdb0,libnng1,libmsgpackc2,libsmartcols1,libjansson4,libisal2,libxxhash0,libzstd1,liblz4-1,"
            "libsnappy1v5,zlib1g,librdkafka1,procps,util-linux")


class Machine:
    def __init__(self):
        base = leat.BUILD / "system-root"
        if not (base / ".complete").exists():
            shutil.rmtree(base, ignore_errors=True)
            mirror = os.environ.get("LEAT_DEBIAN_MIRROR", "")
            r = leat.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", base] + ([mirror] if mirror else []),
                         timeout=900, check=False)
            if r.code != 0:
                leat.skip("debootstrap failed (no mirror?): " + r.out.decode()[-300:])
            (base / ".complete").touch()
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="leat-root-"))
        leat.run(["cp", "-a", "--reflink=auto", f"{base}/.", self.root], timeout=120)
        leat.run(["meson", "install", "-C", leat.BUILD, "--no-rebuild", "--quiet"], env={"DESTDIR": str(self.root)}, timeout=120)
        self.log = open(self.root / "console.log", "wb")
        self.proc = subprocess.Popen(["systemd-nspawn", "--register=no", "--keep-unit", "-q", "-b", "-D", self.root, "--console=pipe"],
                                     stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.pid = leat.wait_until("the machine has a first process", self.leader, 20)
        leat.wait_until("the machine is up", lambda: self.sh("systemctl is-system-running", check=False).out.strip() in (b"running", b"degraded"), 60, 0.2)

    def leader(self):
        if self.proc.poll() is not None:
            leat.skip("systemd-nspawn does not run here: " + (self.root / "console.log").read_text(errors="replace")[-300:])
        out = subprocess.run(["pgrep", "-P", str(self.proc.pid)], capture_output=True).stdout.split()
        return int(out[0]) if out else None

    def sh(self, command, check=True, timeout=60):
        return leat.run(["nsenter", "-t", self.pid, "-a", "sh", "-c", command], check=check, timeout=timeout)

    @contextlib.contextmanager
    def watch(self, command):
        """Runs it in the background; what it printed is told by the function that this gives."""
        with tempfile.TemporaryFile() as out:
            p = subprocess.Popen(["nsenter", "-t", str(self.pid), "-a", "sh", "-c", command], stdout=out, start_new_session=True)
            text = []
            try:
                yield lambda: text[0]
            finally:
                os.killpg(p.pid, 9)
                p.wait()
                out.seek(0)
                text.append(out.read().decode())

    def close(self):
        if self.proc.poll() is None:
            subprocess.run(["nsenter", "-t", str(self.pid), "-a", "systemctl", "poweroff", "--no-block"], capture_output=True)
            try:
                self.proc.wait(30)
            except subprocess.TimeoutExpired:
                os.kill(self.pid, 9)
                self.proc.kill()
                self.proc.wait()
        self.log.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def show(self, unit, what):
        return self.sh(f"systemctl show -P {what} {unit}").out.decode().strip()


def life():
    leat.need_root()
    if leat.run([leat.BUILD / "mqctl" / "mqctl", "--help"], check=False).code != 0 or not shutil.which("systemd-nspawn") or not shutil.which("debootstrap"):
        leat.skip("needs systemd-nspawn and debootstrap")
    m = Machine()
    try:
        m.sh("systemd-sysusers && systemd-tmpfiles --create && journalctl --update-catalog && systemctl daemon-reload")
        m.sh("mqctl instance create main")
        m.sh("systemctl start leat@main", timeout=100)
        assert m.show("leat@main", "ActiveState") == "active"
        assert "ready" in m.show("leat@main", "StatusText").lower(), m.show("leat@main", "StatusText")
        m.sh("mqctl -I main topic create t -p 2 && printf 'k:v\\n' | mqctl -I main produce t -f '%k:%v\\n'")
        assert m.sh("mqctl -I main consume t -r :end -f '%k=%v\\n'").out == b"k=v\n"

        # a local program of another user, in group leat-clients, through the socket; one that is not in it is refused
        m.sh("useradd -G leat-clients alice && useradd bob")
        assert m.sh("runuser -u alice -- mqctl -I main consume t -r :end -f '%v\\n'").out == b"v\n"
        r = m.sh("runuser -u bob -- mqctl -I main consume t -r :end", check=False)
        assert r.code == 4, (r.code, r.err)

        # what a client may not do is refused with the way out
        assert m.sh("runuser -u alice -- mqctl -I main topic delete t -y", check=False).code == 4
        r = m.sh("runuser -u alice -- mqctl -I main supervisor restart broker", check=False)
        assert r.code == 4 and b"leat-admin" in r.err, (r.code, r.err)
        r = m.sh("setpriv --reuid alice --regid alice --groups leat-admin mqctl -I main supervisor status", check=False)  # the file lets her in
        assert r.code == 4 and b"refused for uid" in r.err and b"leat-admin" in r.err, (r.code, r.err)
        m.sh("usermod -aG leat-admin alice")
        assert m.sh("runuser -u alice -- mqctl -I main supervisor status -o json").json()["state"] == "ready"

        # reload says what applied; a bad file changes nothing
        m.sh("echo 'log.retention.hours = 24' >> /etc/leat/main/leat.conf && systemctl reload leat@main")
        assert b"24" in m.sh("mqctl -I main config explain log.retention.hours").out
        m.sh("mkdir -p /etc/leat/main/conf.d && echo 'no.such.key = 1' > /etc/leat/main/conf.d/bad.conf")
        assert m.sh("systemctl reload leat@main", check=False).code != 0
        assert m.show("leat@main", "ActiveState") == "active"
        m.sh("rm /etc/leat/main/conf.d/bad.conf")

        # journal fields
        assert b"LEAT_INSTANCE" in m.sh("journalctl -u leat@main -o json -n 50 --no-pager").out
        assert b"main are ready; clients may connect" in m.sh("journalctl -x -u leat@main --no-pager | tr '\\n' ' ' | sed 's/░*//g; s/  */ /g'").out

        # the watchdog kills a frozen supervisor, systemd starts it again, nothing acknowledged is lost
        m.sh("mkdir -p /run/systemd/system/leat@main.service.d && printf '[Service]\\nWatchdogSec=3\\n' > /run/systemd/system/leat@main.service.d/w.conf"
             " && systemctl daemon-reload && systemctl restart leat@main", timeout=100)
        pid = m.show("leat@main", "MainPID")
        m.sh(f"kill -STOP {pid}")
        leat.wait_until("a new supervisor after the watchdog", lambda: m.show("leat@main", "MainPID") not in ("0", pid)
                        and m.show("leat@main", "ActiveState") == "active", 60, 0.5)
        assert m.sh("mqctl -I main consume t -r :end -f '%v\\n'").out == b"v\n"

        # restart after a crash
        pid = m.show("leat@main", "MainPID")
        m.sh(f"kill -KILL {pid}")
        leat.wait_until("a new supervisor after a crash", lambda: m.show("leat@main", "MainPID") not in ("0", pid)
                        and m.show("leat@main", "ActiveState") == "active", 60, 0.5)
        assert m.sh("mqctl -I main consume t -r :end -f '%v\\n'").out == b"v\n"

        # all killed with thousands of logs to recover: STATUS tells how far it is, and nothing is lost
        m.sh("mqctl -I main topic create many -p 2000 && seq 20000 | sed 's,.*,&:&,' | mqctl -I main produce many -f '%k:%v\\n'", timeout=120)
        pid = m.show("leat@main", "MainPID")
        with m.watch("while sleep 0.01; do systemctl show -P StatusText leat@main; done") as seen:
            m.sh("systemctl kill -s KILL leat@main")
            leat.wait_until("a recovered node", lambda: m.show("leat@main", "MainPID") not in ("0", pid)
                            and m.show("leat@main", "ActiveState") == "active", 60, 0.2)
        assert re.search(r"^starting; broker starting: recovering logs: \d+ of 20", seen(), re.M), sorted(set(seen().splitlines()))
        assert m.sh("mqctl -I main consume many -r :end -f '%v\\n' | wc -l").out.strip() == b"20000"

        # two instances side by side
        m.sh("mqctl instance create second && systemctl start leat@second", timeout=100)
        m.sh("mqctl -I second topic create t && printf 'other\\n' | mqctl -I second produce t -f '%v\\n'")
        assert m.sh("mqctl -I main consume t -r :end -f '%v\\n'").out == b"v\n"
        assert m.sh("mqctl -I second consume t -r :end -f '%v\\n'").out == b"other\n"
        assert {i["instance"] for i in leat.json.loads(m.sh("mqctl instance list -o json").out)["instances"]} == {"main", "second"}

        # mqctl works through systemctl, so that systemd's idea of the unit is ours; all nodes go up and down as one
        m.sh("mqctl -I second -y supervisor stop", timeout=160)
        assert m.show("leat@second", "ActiveState") == "inactive"
        m.sh("mqctl -I second supervisor start", timeout=100)
        assert m.show("leat@second", "ActiveState") == "active"
        assert b"ready" in m.sh("mqctl -I second supervisor logs").out
        m.sh("systemctl enable --quiet leat@main leat@second && systemctl start leat && systemctl stop leat", timeout=160)
        leat.wait_until("both nodes down", lambda: m.show("leat@main", "ActiveState") == m.show("leat@second", "ActiveState") == "inactive", 60, 0.2)
        m.sh("systemctl start leat", timeout=100)
        leat.wait_until("both nodes up", lambda: m.show("leat@main", "ActiveState") == m.show("leat@second", "ActiveState") == "active", 60, 0.2)

        # a clean stop leaves the marker, the next start is quick
        m.sh("systemctl stop leat@main", timeout=160)
        assert m.show("leat@main", "Result") == "success", m.show("leat@main", "Result")
        start = time.monotonic()
        m.sh("systemctl start leat@main", timeout=100)
        assert time.monotonic() - start < 10
        starts = m.sh("journalctl -u leat@main --no-pager -o cat -g 'previous stop'").out.decode().splitlines()
        # new, restarted for its watchdog, three kinds of death, down and up with all nodes, and now
        assert [s.split()[-1] for s in starts] == ["clean", "clean", "synced", "synced", "synced", "clean", "clean"], starts

        # a configuration that cannot work: exit 78, not retried
        m.sh("systemctl stop leat@second && echo 'num.partition = 3' >> /etc/leat/second/leat.conf")
        assert m.sh("systemctl start leat@second", check=False, timeout=100).code != 0
        assert m.show("leat@second", "ExecMainStatus") == "78" and m.show("leat@second", "NRestarts") == "0"
        m.sh("mqctl instance drop second -y")
    except BaseException:
        print(m.sh("journalctl --no-pager -n 120 | tail -120", check=False).out.decode(errors="replace"))
        raise
    finally:
        m.close()


leat.main(life)
