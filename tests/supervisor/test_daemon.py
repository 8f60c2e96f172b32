#!/usr/bin/env python3
"""leat-supervisor with children of our own making (fake_child.c): order, deaths, refusals, verbs, notifications.

Times are test_core.c's business, which has a clock of its own. Here states are waited for, however slow the machine is.

usage: test_daemon.py SUPERVISOR FAKE_CHILD CONTROL_CALL [--slow] [TEST...]
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

SUPERVISOR, FAKE, CALL = (os.path.abspath(a) for a in sys.argv[1:4])
ROLES = ('controller', 'broker', 'consumer-coord')
PATIENCE_S = 60


class Node:
    def __init__(self, **manners):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix='leat-sup-'))
        self.bin = self.dir / 'bin'
        self.bin.mkdir()
        for role in ROLES:
            os.symlink(FAKE, self.bin / f'leat-{role}')
        self.manners(**manners)
        self.process = None
        self.extra_env = {}
        self.sets = ['listeners=PLAINTEXT://127.0.0.1:0']
        self.options = []

    def manners(self, **manners):
        for role, text in manners.items():
            (self.dir / role.replace('_', '-')).write_text(text)

    def start(self, wait=True):
        r, w = os.pipe()
        env = dict(os.environ, LEAT_LIBEXECDIR=str(self.bin), LEAT_FAKE_DIR=str(self.dir), **self.extra_env)
        env.pop('JOURNAL_STREAM', None)
        args = [SUPERVISOR, '--data-dir', str(self.dir / 'data'), '--log-file', str(self.dir / 'log'), '--ready-fd', str(w)]
        for s in self.sets:
            args += ['--set', s]
        self.process = subprocess.Popen(args + self.options, env=env, pass_fds=[w], stderr=subprocess.PIPE, text=True)
        os.close(w)
        if wait:
            with os.fdopen(r) as f:
                line = f.readline()
            assert line, f'not ready; exit {self.process.wait()}; log:\n{self.log()}'
            self.status_at_ready = json.loads(line)
        else:
            os.close(r)
        return self

    def log(self):
        return (self.dir / 'log').read_text() if (self.dir / 'log').exists() else ''

    def call(self, *args, timeout_ms=20000):
        socket_path = self.dir / 'data/run/control.sock'
        while not socket_path.exists() and self.process.poll() is None:
            time.sleep(0.005)
        out = subprocess.run([CALL, str(socket_path), *args], capture_output=True, text=True,
                             env=dict(os.environ, CONTROL_TIMEOUT_MS=str(timeout_ms)))
        assert out.returncode == 0, (args, out.returncode, out.stderr, self.log())
        code, error, body = out.stdout.split('\n', 2)
        return int(code), error, json.loads(body) if body.strip() else None

    def status(self):
        return self.call('status')[2]

    def role(self, role):
        return next(p for p in self.status()['processes'] if p['role'] == role)

    def told(self, role):
        path = self.dir / f'{role}.log'
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, what, condition):
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if condition():
                return
            time.sleep(0.01)
        raise AssertionError(f'{what} did not happen; {json.dumps(self.status())}\n{self.log()}')

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self):
        code = self.process.wait(PATIENCE_S)
        self.errors = self.process.stderr.read()
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process:
            self.process.stderr.close()
        shutil.rmtree(self.dir)


def alive(pid):
    try:
        return open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_start_order_status_and_clean_stop():
    with Node() as n:
        n.start()
        s = n.status()
        assert s['state'] == 'ready' and s['ready'] and s['degraded'] == [], s
        assert [p['role'] for p in s['processes']] == list(ROLES)
        starts = [p['started_ms'] for p in s['processes']]
        assert starts == sorted(starts)
        assert s['listeners'][0]['port'] != 0 and s['listeners'][0]['port_asked'] == 0
        assert socket.create_connection(('127.0.0.1', s['listeners'][0]['port'])).close() is None
        assert n.status_at_ready['pid'] == n.process.pid == s['pid']
        assert 'siblings controller+ broker+ consumer-coord+' in n.told('broker')
        ready = [line for line in n.told('broker') if line.startswith('ready')][0]
        assert 'previous=clean' in ready and 'client=1' in ready and 'kafka=PLAINTEXT' in ready, ready
        assert f"listeners=PLAINTEXT://127.0.0.1:{s['listeners'][0]['port']}" in ready, ready
        assert 'client=0' in [line for line in n.told('controller') if line.startswith('ready')][0]
        assert oct(os.stat(s['client_socket']).st_mode & 0o777) == oct(os.stat(s['control_socket']).st_mode & 0o777) == '0o660'
        properties = dict(line.split('=', 1) for line in (n.dir / 'data/log/meta.properties').read_text().splitlines() if '=' in line)
        assert properties['version'] == '1' and properties['cluster.id'] == s['cluster_id'], properties
        assert properties['directory.id'] == s['directory_id'] and properties['node.id'] == '1'
        assert n.stop() == 0
        assert (n.dir / 'data/clean-shutdown').exists()
        assert not os.path.exists(s['client_socket'])
        n.start()  # the same node again, and it knows how it stopped
        assert n.status()['cluster_id'] == s['cluster_id'] and n.status()['previous_stop'] == 'clean'
        assert not (n.dir / 'data/clean-shutdown').exists()
        order = [json.loads(line)['MESSAGE'] for line in n.log().splitlines()]
        ends = [m.split()[0] for m in order if ' ended: ' in m]
        assert ends == ['consumer-coord', 'broker', 'controller'], ends


def test_kill_9_of_a_child():
    with Node() as n:
        n.start()
        before = n.role('broker')['pid']
        os.kill(before, signal.SIGKILL)
        n.wait_for('restart', lambda: n.role('broker')['state'] == 'ready' and n.role('broker')['pid'] != before)
        broker = n.role('broker')
        assert broker['restarts'] == 1 and broker['last_exit']['how'] == 'SIGKILL', broker
        for other in ('controller', 'consumer-coord'):
            n.wait_for(f'{other} hears of it', lambda: 'died broker' in n.told(other)
                       and any('broker+' in line for line in n.told(other)[n.told(other).index('died broker'):]))
        assert n.status()['listeners'][0]['port'] == n.status_at_ready['listeners'][0]['port']


def test_deaths_at_start_are_retried():
    with Node(broker='crash') as n:
        n.start(wait=False)
        # 0 + 0.1 + 0.7 + 5 s between five deaths would be long; the operator sees them in between
        n.wait_for('backoff', lambda: n.role('broker')['counted_deaths'] >= 3)
        s = n.status()
        assert not s['ready'] and any('broker died (SIGKILL)' in r for r in s['degraded']), s['degraded']
        n.manners(broker='')  # whatever was wrong is mended before the last try
        n.wait_for('ready', lambda: n.status()['ready'])


def test_permanent_failures_at_start():
    for code in (65, 74, 78):
        with Node(controller=f'fail {code} the disk said no') as n:
            n.start(wait=False)
            assert n.ended() == code, n.log()
            assert 'the disk said no' in (n.dir / 'data/failure-controller').read_text()
            assert 'controller failed: ' in n.errors and 'the disk said no' in n.errors, n.errors
            assert not (n.dir / 'data/clean-shutdown').exists()
            assert n.told('broker') == []  # not started at all
            n.manners(controller='')
            n.start()
            assert n.status()['previous_stop'] == ('suspect' if code == 74 else 'synced')
            assert not (n.dir / 'data/failure-controller').exists()  # ready again


def test_storage_failure_of_a_running_node():
    with Node() as n:
        n.start()
        n.manners(broker='fail 74 fsync of orders-3: Input/output error')
        os.kill(n.role('broker')['pid'], signal.SIGKILL)
        n.wait_for('failed', lambda: n.role('broker')['state'] == 'failed')
        code, _, s = n.call('status')
        assert code == 1 and s['state'] == 'failed: storage', s['state']
        assert any('Input/output error' in r for r in s['degraded']), s['degraded']
        assert n.role('broker')['last_exit']['exit_code'] == 74
        code, error, _ = n.call('restart', 'controller')
        assert code == 0, error  # the others go on
        n.manners(broker='')
        assert n.call('start', 'broker')[0] == 0
        assert n.status()['state'] == 'ready'
        n.manners(broker='fail 74 again')
        os.kill(n.role('broker')['pid'], signal.SIGKILL)
        n.wait_for('failed', lambda: n.role('broker')['state'] == 'failed')
        assert n.call('start', 'broker')[0] == 1
        assert n.stop() == 74
        assert not (n.dir / 'data/clean-shutdown').exists()


def test_verbs():
    with Node() as n:
        n.start()
        pids = {r: n.role(r)['pid'] for r in ROLES}
        assert n.call('stop', 'broker')[0] == 0
        assert n.role('broker')['state'] == 'stopped' and n.call('status')[0] == 1
        assert n.call('start', 'broker')[0] == 0
        assert n.call('start', 'broker')[0] == 0  # is up already
        assert n.role('broker')['pid'] != pids['broker']
        assert n.call('restart', 'all')[0] == 0
        assert all(n.role(r)['pid'] != pids[r] for r in ROLES)
        assert n.call('drain')[0] == 0
        assert n.role('broker')['drained'] and n.call('status')[0] == 1
        assert n.call('undrain')[0] == 0
        assert n.role('broker')['state'] == 'ready' and n.call('status')[0] == 0
        assert 'drain 1' in n.told('broker') and 'undrain' in n.told('broker')
        before = n.role('controller')['pid']
        assert n.call('kill', 'controller', 'KILL')[0] == 0
        n.wait_for('restart', lambda: n.role('controller')['pid'] != before and n.role('controller')['ready'])
        assert n.call('kill', 'controller', 'FROB')[0] == 2
        assert n.call('stop', 'brokr')[0] == 2
        assert n.call('start')[0] == 2
        assert n.call('frobnicate')[0] == 2
        code, _, config = n.call('config')
        values = {v['key']: v for v in config['values']}
        assert values['listeners']['source'] == '--set' and values['num.partitions']['source'] == 'default'
        code, error, _ = n.call('stop', 'all', 'drain')
        assert code == 0, error
        assert n.ended() == 0
        assert (n.dir / 'data/clean-shutdown').exists()


def test_time_out_of_a_verb_and_a_deaf_child():
    with Node(consumer_coord='lame') as n:
        n.start()
        code, error, _ = n.call('drain', timeout_ms=100)
        assert code == 7 and 'consumer-coord still had work' in error, (code, error)
        code, error, _ = n.call('stop', 'all', 'drain', timeout_ms=10000)  # patience ends, the stop goes on
        assert code == 0, error
        assert n.ended() == 0


def test_a_dirty_stop_leaves_no_marker():
    with Node(broker='dirty') as n:
        n.start()
        assert n.stop() == 0
        assert not (n.dir / 'data/clean-shutdown').exists()


def test_second_signal_kills():
    with Node(broker='deaf') as n:
        n.start()
        n.process.send_signal(signal.SIGTERM)
        n.wait_for('stop', lambda: 'stop' in n.told('broker'))
        assert n.call('stop', 'all', timeout_ms=50)[0] == 7
        n.process.send_signal(signal.SIGINT)
        assert n.ended() == 0
        assert not (n.dir / 'data/clean-shutdown').exists()


def test_one_supervisor_for_a_data_directory():
    with Node() as n:
        n.start()
        second = subprocess.run([SUPERVISOR, '--data-dir', str(n.dir / 'data'), '--run-dir', str(n.dir / 'run2'), '--set',
                                 'listeners=PLAINTEXT://127.0.0.1:0'], capture_output=True, text=True,
                                env=dict(os.environ, LEAT_LIBEXECDIR=str(n.bin), LEAT_FAKE_DIR=str(n.dir)))
        assert second.returncode == 78 and 'another leat-supervisor' in second.stderr, second.stderr
        assert n.status()['ready']


def test_children_die_with_the_supervisor_and_the_next_one_starts():
    with Node() as n:
        n.start()
        pids = [n.role(r)['pid'] for r in ROLES]
        n.process.kill()
        n.process.wait()
        n.start()  # at once: the lock is free when the last child is gone
        assert not any(alive(p) for p in pids)
        assert n.status()['previous_stop'] == 'synced'


def test_configuration_is_checked_first():
    with Node() as n:
        n.options = ['--config', str(n.dir / 'leat.conf')]
        (n.dir / 'conf.d').mkdir()
        (n.dir / 'leat.conf').write_text('# mine\nnum.partitons = 3\n')
        n.start(wait=False)
        assert n.ended() == 78 and 'leat.conf:2:' in n.errors and 'num.partitions' in n.errors, n.errors
        (n.dir / 'leat.conf').write_text('num.partitions = many\n')
        n.start(wait=False)
        assert n.ended() == 78 and 'leat.conf:1:' in n.errors, n.errors
        (n.dir / 'leat.conf').write_text('num.partitions = 3\n')
        (n.dir / 'conf.d/10.conf').write_text('num.partitions = 4\nnum.partitions = 5\n')
        n.start(wait=False)
        assert n.ended() == 78 and '10.conf:2:1: error' in n.errors, n.errors
        (n.dir / 'conf.d/10.conf').write_text('num.partitions = 4\nlog.retention.hours = 2\n')
        n.extra_env = {'LEAT_LOG_RETENTION_HOURS': '5'}
        n.start()
        values = {v['key']: v for v in n.call('config')[2]['values']}
        assert (values['num.partitions']['value'], values['num.partitions']['source']) == ('4', 'file')
        assert values['num.partitions']['file'].endswith('10.conf') and values['num.partitions']['line'] == 1
        assert (values['log.retention.hours']['value'], values['log.retention.hours']['source']) == ('5', 'environment')
        assert n.stop() == 0
        check = subprocess.run([SUPERVISOR, '--data-dir', str(n.dir / 'data'), '--check', '--set', 'num.partition=1'], capture_output=True, text=True)
        assert check.returncode == 78 and check.stderr == '--set: error: unknown key num.partition; did you mean num.partitions?\n', check.stderr
        assert subprocess.run([SUPERVISOR], capture_output=True).returncode == 64
        assert subprocess.run([SUPERVISOR, '--data-dir', 'd', '--frob'], capture_output=True).returncode == 64


def test_refusals_of_the_data_directory():
    with Node() as n:
        n.start()
        n.stop()
        n.sets.append('node.id=2')
        n.start(wait=False)
        assert n.ended() == 78 and 'node 1' in n.log()
        n.sets.pop()
        path = n.dir / 'data/meta.properties'
        good = path.read_text()
        path.write_text(good.replace('leat.format=1', 'leat.format=2').replace('leat.version=', 'leat.version=9.'))
        n.start(wait=False)
        assert n.ended() == 65 and '9.0' in n.log()
        path.write_text(good.replace('cluster.id=', 'cluster.id=!'))
        n.start(wait=False)
        assert n.ended() == 65
        path.unlink()  # the log's copy remembers
        n.start()
        assert n.status()['cluster_id'] in good
        n.stop()
        directory = n.status_at_ready['directory_id']
        shutil.rmtree(n.dir / 'data/log')  # a new disk: same cluster, another directory
        n.start()
        assert n.status()['cluster_id'] in good and n.status()['directory_id'] != directory
        assert any('was new at this start' in r for r in n.status()['degraded'])
        n.stop()
        n.start()
        assert n.status()['degraded'] == []
        n.stop()
        (n.dir / 'data/log/lost+found').mkdir()  # what a fresh file system has
        (n.dir / 'data/log/orders-0').mkdir()  # and metadata never was: it is lost
        n.start(wait=False)
        assert n.ended() == 65 and 'orders-0' in n.errors and 'mqctl meta restore' in n.errors, n.errors
        (n.dir / 'data/meta').mkdir(exist_ok=True)
        n.start(wait=False)
        assert n.ended() == 65
        (n.dir / 'data/meta/CURRENT').touch()
        n.start()


def test_a_port_in_use():
    with Node() as n, socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        n.sets = [f'listeners=PLAINTEXT://127.0.0.1:{s.getsockname()[1]}']
        n.start(wait=False)
        assert n.ended() == 69 and 'Address already in use' in n.log() and 'Address already in use' in n.errors
        n.sets = ['listeners=PLAINTEXT://0.0.0.0:0']
        n.start(wait=False)
        assert n.ended() == 78 and 'allow.insecure' in n.errors


def test_reload():
    with Node(consumer_coord='stubborn') as n:
        conf = n.dir / 'leat.conf'
        n.options = ['--config', str(conf)]
        conf.write_text('log.level = info\n')
        n.start()
        digest = n.status()['config']['digest']
        conf.write_text('log.level = debug\nmax.sessions = 99\nallow.insecure = true\n')
        code, error, body = n.call('reload')
        assert code == 1 and 'refused' in error, (code, error)
        assert [c['key'] for c in body['applied']] == ['log.level'], body
        assert {c['key']: c['for'] for c in body['waits']} == {'allow.insecure': 'restart of the node',
                                                              'max.sessions': 'restart of the processes'}, body
        assert {p['role']: p['ok'] for p in body['processes']} == {'controller': True, 'broker': True, 'consumer-coord': False}
        assert any(line.startswith('reload debug PLAINTEXT://127.0.0.1:') for line in n.told('broker'))
        assert n.status()['config']['digest'] != digest
        n.manners(consumer_coord='')
        assert n.call('restart', 'all')[0] == 0
        code, _, body = n.call('reload')
        assert body['warnings'] == [], body
        assert code == 0 and body['applied'] == [] and [c['key'] for c in body['waits']] == ['allow.insecure'], body
        conf.write_text('log.level = loud\n')
        code, error, _ = n.call('reload')
        assert code == 78 and 'leat.conf:1:' in error, error
        conf.write_text('log.level = debug\nallow.insecure = true\nmax.sessions=99\noffsets.topic.num.partitions = 3\n')
        code, error, _ = n.call('reload')
        assert code == 78 and 'offsets.topic.num.partitions' in error, error
        conf.write_text('max.sessions=99\nallow.insecure = true\n')
        n.process.send_signal(signal.SIGHUP)
        n.wait_for('reload by SIGHUP', lambda: any(line.startswith('reload - ') for line in n.told('broker')))
        assert n.status()['ready']


def test_an_operator_accepts_the_clock():
    with Node(broker='doubt') as n:
        n.start()
        code, _, s = n.call('status')
        assert code == 1 and any('mqctl supervisor accept-clock' in r for r in s['degraded']), s['degraded']
        code, error, body = n.call('accept-clock')
        assert code == 0 and body['distrusted_by'] == ['broker'] and abs(body['wall_ms'] - time.time() * 1000) < 60000, (error, body)
        assert n.call('status')[0] == 0
        assert all('accept-clock' in n.told(role) for role in ROLES)
        assert n.call('accept-clock')[2]['distrusted_by'] == []  # again does no harm
        n.wait_for('both lines in the log', lambda: n.log().count('5b0d1f3c8f0e4d3e9a6d0f6f1c2a7b0b') % 2 == 0)
        assert n.call('stop', 'consumer-coord')[0] == 0
        assert n.call('accept-clock')[0] == 0  # it learns of it from the disk
        n.manners(broker='stubborn')
        assert n.call('restart', 'broker')[0] == 0
        code, error, _ = n.call('accept-clock')
        assert code == 1 and 'not in the mood' in error, (code, error)
        assert n.call('stop', 'broker')[0] == 0
        code, error, _ = n.call('accept-clock')
        assert code == 6 and 'start broker' in error, (code, error)


def test_systemd_notifications():
    with Node(broker='slow') as n, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        path = str(n.dir / 'notify')
        s.bind(path)
        s.settimeout(PATIENCE_S)
        n.extra_env = {'NOTIFY_SOCKET': path, 'WATCHDOG_USEC': '4000000'}
        n.start()
        assert n.call('reload')[0] == 0
        seen = ''
        while 'WATCHDOG=1' not in seen:
            seen += s.recv(4096).decode() + '\n'
        assert n.stop() == 0
        s.settimeout(0.2)
        try:
            while True:
                seen += s.recv(4096).decode() + '\n'
        except socket.timeout:
            pass
        for expected in ('EXTEND_TIMEOUT_USEC=30000000', 'broker starting: recovering 3 of 7 logs', 'READY=1', 'Kafka on 127.0.0.1:',
                         'RELOADING=1', 'MONOTONIC_USEC=', 'STOPPING=1'):
            assert expected in seen, (expected, seen)
        assert seen.index('recovering') < seen.index('READY=1') < seen.index('RELOADING=1') < seen.index('STOPPING=1')


def test_garbage_on_the_control_socket():
    with Node() as n:
        n.start()
        for data in (b'', b'x' * 100, b'\0SP\0\0\x30\0\0' + b'\1' + (2**62).to_bytes(8, 'big'),
                     b'\0SP\0\0\x30\0\0' + b'\1' + (20).to_bytes(8, 'big') + b'\x80\0\0\1' + b'\xc1' * 16):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(str(n.dir / 'data/run/control.sock'))
                s.sendall(data)
                s.settimeout(0.05)
                try:
                    s.recv(4096)
                except (socket.timeout, ConnectionResetError):
                    pass
        assert n.call('status')[0] == 0
        idle = [socket.socket(socket.AF_UNIX) for _ in range(50)]
        for s in idle:
            s.connect(str(n.dir / 'data/run/control.sock'))
        assert n.call('status')[0] == 0
        for s in idle:
            s.close()


NOBODY = 65534


@contextlib.contextmanager
def other_user(uid):
    groups = os.getgroups()
    os.setgroups([uid])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def come_as(uid, path):
    """What the control socket says to this user, who says nothing: None when the door is closed, b'' when shown out."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(PATIENCE_S)
        try:
            with other_user(uid):
                s.connect(str(path))
        except PermissionError:
            return None
        try:
            return s.recv(64)
        except ConnectionResetError:
            return b''


def test_control_peers_of_other_users():
    if os.geteuid() != 0:
        print('SKIP test_control_peers_of_other_users: needs root')
        return
    with Node() as n:
        n.dir.chmod(0o755)
        n.options = ['--run-dir', str(n.dir / 'run')]
        n.start()
        path = n.dir / 'run/control.sock'
        assert come_as(NOBODY, path) is None
        path.chmod(0o666)  # as for one who has the group of the file and is not in the group any more
        assert come_as(NOBODY, path) == b''
        assert come_as(0, path) == SP_REP
        n.wait_for('the refusal in the log', lambda: f'uid {NOBODY} refused: neither root, nor ours, nor in group leat-admin' in n.log())
        assert n.process.poll() is None and come_as(NOBODY, path) == b''


def cpu_seconds(pid):
    fields = open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def becomes_idle(pid):
    """Half a second in which it does next to nothing; a process that spins has none."""
    for _ in range(2 * PATIENCE_S):
        before = cpu_seconds(pid)
        time.sleep(0.5)
        if cpu_seconds(pid) - before < 0.1:
            return True
    return False


SP_REQ = b'\0SP\0\0\x30\0\0'  # what a REQ socket says first
SP_REP = b'\0SP\0\0\x31\0\0'  # and what it hears first


def frame(body, request_id=0x80000001):
    body = request_id.to_bytes(4, 'big') + body
    return b'\1' + len(body).to_bytes(8, 'big') + body


def visit(n, data=b''):
    """Comes to the control socket, leaves what it has to say, and goes without listening."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(n.dir / 'data/run/control.sock'))
        s.sendall(data)


def hurried_visits(n, count):
    for i in range(count):
        visit(n, (b'', SP_REQ[:3], SP_REQ, SP_REQ + frame(b'\xc1')[:9], SP_REQ + frame(b'\xc1'))[i % 5])


def test_clients_that_leave_at_once():
    with Node() as n:
        n.start()
        hurried_visits(n, 500)
        assert n.call('status')[0] == 0
        assert becomes_idle(n.process.pid)
        for _ in range(3):  # everything is waiting already, and everybody gone, when the supervisor comes back
            n.process.send_signal(signal.SIGSTOP)
            hurried_visits(n, 100)
            n.process.send_signal(signal.SIGCONT)
            assert n.call('status')[0] == 0
        assert becomes_idle(n.process.pid)
        assert n.call('stop')[0] == 0
        assert n.ended() == 0


def bytes_of(n, *args):
    """What a client sends to ask for this, after its hello."""
    path = str(n.dir / 'listening.sock')
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
        s.listen()
        client = subprocess.Popen([CALL, path, *args])
        peer = s.accept()[0]
        peer.sendall(SP_REP)
        data = b''
        while len(data) < 17 or len(data) < 17 + int.from_bytes(data[9:17], 'big'):
            data += peer.recv(4096)
        client.kill()
        client.wait()
        peer.close()
        os.unlink(path)
        return data[8:]


def last_words(s):
    """Everything until it hangs up; a supervisor that does not lets this time out."""
    data = b''
    s.settimeout(PATIENCE_S)
    try:
        while more := s.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data[8:]


def connected(n):
    s = socket.socket(socket.AF_UNIX)
    s.connect(str(n.dir / 'data/run/control.sock'))
    return s


def test_slow_and_pushy_control_clients():
    with Node(consumer_coord='lame') as n:  # drains never end
        n.start()
        status = bytes_of(n, 'status')
        with connected(n) as s:
            for b in SP_REQ + status:
                s.sendall(bytes([b]))
            s.settimeout(PATIENCE_S)
            got = b''
            while len(got) < 17 or len(got) < 17 + int.from_bytes(got[9:17], 'big'):
                got += s.recv(65536)
            assert got[:8] == SP_REP and got[17:21] == status[9:13] and b'controller' in got
            s.sendall(status)  # the same connection again
            assert s.recv(65536)[9:13] == status[9:13]
        hop = b'\0\0\0\7'  # a device between REQ and REP leaves a word of its own
        with connected(n) as s:
            s.sendall(SP_REQ + b'\1' + (len(status) - 9 + 4).to_bytes(8, 'big') + hop + status[9:])
            s.settimeout(PATIENCE_S)
            assert s.recv(8, socket.MSG_WAITALL) == SP_REP
            assert s.recv(17, socket.MSG_WAITALL)[9:] == hop + status[9:13]
        drain = bytes_of(n, 'drain')
        for odd in (drain + status, b'\2' + status[1:], frame(b'', 1), b'\1' + bytes(8), b'\1' + (3).to_bytes(8, 'big') + b'abc',
                    b'\1' + (65537).to_bytes(8, 'big')):
            with connected(n) as s:
                s.sendall(SP_REQ + odd)
                data = last_words(s)
                assert len(data) < 200, (odd, data)
        assert n.call('status')[0] in (0, 1)


def test_more_control_clients_than_there_is_room_for():
    with Node(consumer_coord='lame') as n:
        n.start()
        idle = [connected(n) for _ in range(100)]
        for s in idle:
            s.sendall(SP_REQ)
        idle += [connected(n) for _ in range(100)]
        assert n.call('status')[0] == 0
        assert becomes_idle(n.process.pid)
        drain = bytes_of(n, 'drain')
        waiting = [connected(n) for _ in range(60)]  # more than are served at a time, and they do not stay for the answer
        for s in waiting:
            s.sendall(SP_REQ + drain)
        for s in waiting[::2]:
            s.close()
        assert becomes_idle(n.process.pid)
        for s in idle + waiting:
            s.close()
        assert becomes_idle(n.process.pid)
        assert n.call('status')[0] == 1 and n.call('undrain')[0] == 0


def test_missing_children():
    with Node() as n:
        (n.bin / 'leat-broker').unlink()
        n.start(wait=False)
        assert n.ended() == 78 and 'leat-broker is not to be found' in n.log()


def test_programs_are_those_of_the_start():
    with Node() as n:
        n.start()
        (n.bin / 'leat-broker').unlink()  # as while a package is upgraded
        (n.bin / 'leat-broker').write_text('#!/bin/false')
        before = n.role('broker')['pid']
        os.kill(before, signal.SIGKILL)
        n.wait_for('restart', lambda: n.role('broker')['pid'] not in (0, before) and n.role('broker')['ready'])


def test_a_child_of_another_build():
    with Node() as n:
        ours = subprocess.run([n.bin / 'leat-broker', '--version'], capture_output=True, env=dict(os.environ, LEAT_FAKE_DIR=str(n.dir))).stdout.strip()
        other = ours[:-4] + (b'0000' if ours[-4:] != b'0000' else b'1111')
        (n.bin / 'leat-broker').unlink()
        (n.bin / 'leat-broker').write_bytes(open(FAKE, 'rb').read().replace(ours, other))
        (n.bin / 'leat-broker').chmod(0o755)
        n.start(wait=False)
        assert n.ended() == 78
        assert f'leat-broker is of build {other.decode()}, its supervisor of build {ours.decode()}' in n.errors, n.errors
        assert n.log().count('"LEAT_ROLE":"broker"') == 1  # tried once


def test_a_child_without_a_supervisor():
    with Node() as n:
        alone = subprocess.run([n.bin / 'leat-broker'], capture_output=True, text=True, env=dict(os.environ, LEAT_FAKE_DIR=str(n.dir)))
        assert alone.returncode == 64 and 'mqctl sandbox start' in alone.stderr, alone.stderr
        with open(os.devnull) as null:
            fd = str(null.fileno())
            odd = subprocess.run([n.bin / 'leat-broker', '--super-fd', fd, '--config-fd', fd, '--counters-fd', fd],
                                 capture_output=True, text=True, pass_fds=[null.fileno()],
                                 env=dict(os.environ, LEAT_FAKE_DIR=str(n.dir)))
            assert odd.returncode == 64 and 'no socket of a supervisor' in odd.stderr, odd.stderr


def test_two_nodes_side_by_side():
    with Node() as a, Node() as b:
        a.start()
        b.sets.append('node.id=7')
        b.start()
        s, t = a.status(), b.status()
        assert (s['node_id'], t['node_id']) == (1, 7) and s['cluster_id'] != t['cluster_id']
        os.kill(a.role('broker')['pid'], signal.SIGKILL)
        a.wait_for('restart', lambda: a.role('broker')['restarts'] == 1 and a.role('broker')['ready'])
        assert b.role('broker')['restarts'] == 0
        assert a.stop() == 0 and b.stop() == 0


def slow_test_a_hung_child_is_ended():
    with Node(broker='hang') as n:
        n.start()
        pid = n.role('broker')['pid']
        n.manners(broker='')
        n.wait_for('SIGABRT and SIGKILL', lambda: n.role('broker')['pid'] != pid)
        broker = n.role('broker')
        assert broker['last_exit']['how'] == 'SIGKILL' and 'hung' in broker['last_exit']['why'], broker


def slow_test_crash_loop():
    with Node() as n:
        n.start()
        n.manners(broker='exit 1')
        os.kill(n.role('broker')['pid'], signal.SIGKILL)
        n.wait_for('crash loop', lambda: n.role('broker')['state'] == 'failed')
        assert n.status()['state'] == 'failed: crash loop'
        assert n.role('broker')['restarts'] in (4, 5), n.role('broker')  # was the first death within 1 s of READY?
        assert 'crash loop' in (n.dir / 'data/failure-broker').read_text()
        n.manners(broker='')
        assert n.call('start', 'broker')[0] == 0
        assert not (n.dir / 'data/failure-broker').exists()


def slow_test_crash_loop_at_start():
    with Node(consumer_coord='crash') as n:
        n.start(wait=False)
        assert n.ended() == 70 and 'consumer-coord failed: crash loop (SIGKILL)' in n.errors, n.errors
        assert 'crash loop' in (n.dir / 'data/failure-consumer-coord').read_text()
        n.manners(consumer_coord='')
        n.start()
        assert n.status()['previous_stop'] == 'synced'
        assert not (n.dir / 'data/failure-consumer-coord').exists()


slow = '--slow' in sys.argv
wanted = [a for a in sys.argv[4:] if a != '--slow']
failed = 0
for name, test in list(globals().items()):
    if not name.startswith('slow_test_' if slow else 'test_') or (wanted and name not in wanted):
        continue
    begin = time.monotonic()
    try:
        test()
        result = 'ok'
    except Exception:
        traceback.print_exc()
        failed += 1
        result = 'FAILED'
    print(f'{result} {name} {time.monotonic() - begin:.2f} s', flush=True)
sys.exit(failed != 0)
