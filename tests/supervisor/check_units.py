#!/usr/bin/env python3
"""systemd's own opinion of our files: verify without complaint, exposure at most 2.0, users and directories that parse, and a
catalog entry for each message id of the source.

usage: check_units.py leat@.service leat.service SYSUSERS TMPFILES CATALOG EVENTS_H
Exit 77 (skipped) where systemd-analyze is missing.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

EXPOSURE_MAX = 2.0
unit, umbrella, sysusers, tmpfiles, catalog, events = (pathlib.Path(a) for a in sys.argv[1:])
failures = []


def run(*args):
    p = subprocess.run(args, capture_output=True, text=True)
    return p.returncode, (p.stdout + p.stderr).strip()


def check_catalog():
    ids = set(re.findall(r'"([0-9a-f]{32})"', events.read_text()))
    entries = re.findall(r'^-- ([0-9a-f]{32})$', catalog.read_text(), re.M)
    if len(entries) != len(set(entries)) or set(entries) != ids:
        failures.append(f'catalog and events.h differ: {sorted(set(entries) ^ ids)}')
    assert len(ids) >= 10


def check_units(directory):
    for source in (unit, umbrella):
        text = source.read_text()
        if '@sbindir@' in text or '@bindir@' in text:
            failures.append(f'{source.name}: a path was not filled in')
        # verify wants executables that exist; ours are not installed yet
        (directory / source.name).write_text(re.sub(r'^(Exec\w+=)\S*/(leat-supervisor|mqctl) ', r'\1/bin/true ', text, flags=re.M))
    instance = directory / 'leat@main.service'
    shutil.copy(directory / 'leat@.service', instance)
    code, out = run('systemd-analyze', 'verify', '--man=no', '--recursive-errors=no', str(instance), str(directory / 'leat.service'))
    if code != 0 or out:
        failures.append(f'verify: exit {code}: {out}')
    code, out = run('systemd-analyze', 'security', '--offline=yes', str(instance))
    m = re.search(r'Overall exposure level for \S+: ([\d.]+)', out)
    if not m or float(m.group(1)) > EXPOSURE_MAX:
        failures.append(f'security: {out.splitlines()[-1] if out else code}')
    else:
        print(f'exposure {m.group(1)}')


def check_tools(directory):
    if shutil.which('systemd-sysusers'):
        code, out = run('systemd-sysusers', '--dry-run', f'--root={directory}', str(sysusers.resolve()))
        if code != 0:
            failures.append(f'sysusers: {out}')
    for line in tmpfiles.read_text().splitlines():
        if not re.fullmatch(r'd /(run|etc|var/lib)/leat 0755 (leat|root) leat -', line):
            failures.append(f'tmpfiles: {line}')


check_catalog()
if not shutil.which('systemd-analyze'):
    print('SKIP: no systemd-analyze here')
    sys.exit(77 if not failures else 1)
with tempfile.TemporaryDirectory() as d:
    check_units(pathlib.Path(d))
    (pathlib.Path(d) / 'etc').mkdir()
    check_tools(pathlib.Path(d))
for f in failures:
    print(f)
sys.exit(1 if failures else 0)
