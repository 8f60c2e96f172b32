#!/usr/bin/env python3
"""Writes build_id.c: the version and a hash of the contracts between daemons (see build_id.h).

usage: build_id.py OUT.c VERSION SOURCE_ROOT

Runs with every build and leaves OUT.c alone when nothing changed.
"""
import hashlib
import pathlib
import sys

FOLDERS = ('base', 'wire', 'shm', 'storage', 'meta')


def main():
    out, version, root = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    digest = hashlib.sha256(version.encode())
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob('*')):
            if path.suffix in ('.h', '.txt'):
                digest.update(str(path.relative_to(root)).encode() + b'\0' + path.read_bytes())
    text = f'''/* Made by build_id.py. */

#include "base/build_id.h"

const char *build_id(void)
{{
    return "{version[:10]}-{digest.hexdigest()[:12]}";
}}

const char *build_version(void)
{{
    return "{version}";
}}
'''
    if not out.exists() or out.read_text() != text:
        out.write_text(text)


main()
