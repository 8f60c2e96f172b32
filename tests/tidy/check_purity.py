#!/usr/bin/env python3
"""Pure cores import nothing but memory, string and arithmetic functions: their archives' undefined symbols against an allow list.

usage: check_purity.py NM ARCHIVE=OBJECT-PATTERN[,PATTERN...]...   (patterns match object names; * = all)
Symbols that another object of the tree defines are looked at there: `wire/` calls base's pure files, which are checked too.
"""
import fnmatch
import re
import subprocess
import sys

ALLOW = re.compile(
    r"^(malloc|calloc|realloc|reallocarray|free|mem(cpy|move|set|cmp|chr|mem)|str(len|nlen|cmp|ncmp|casecmp|ncasecmp|chr|rchr|str|dup|ndup|spn|cspn|tol|toll|toul|toull|tod)"
    r"|strtok_r|qsort|qsort_r|bsearch|abort|__assert_fail|__stack_chk_fail|__(v?sn?printf|mem(cpy|move|set)|strn?cpy|strcat|explicit_bzero|memmove)_chk"
    r"|v?snprintf|__isoc99_sscanf|sscanf|__ctype_b_loc|__ctype_to(lower|upper)_loc|tolower|toupper|isalnum|round|llround|ceil|floor|log2|pow|ldexp|__errno_location"
    r"|_GLOBAL_OFFSET_TABLE_|__tls_get_addr"
    r"|msgpack_.*|XXH.*|crc32_iscsi|inflate.*|deflate.*|crc32|LZ4F_.*|ZSTD_.*|snappy_.*"
    # base/: the functions that make no system call
    r"|buf_.*|arena_.*|uuid_(is_zero|equal|format|parse)|parse_.*|format_.*|text_(suggest|refuse)|topic_name_is_valid|utf8_is_valid"
    r"|crc32c|hash64|rng_.*|conf_(find|get|set|deinit|serialize)|base_freep)$")

nm = sys.argv[1]
defined = set()
checks = []
for spec in sys.argv[2:]:
    archive, patterns = spec.split("=", 1)
    checks.append((archive, patterns.split(",")))


def symbols(archive):
    name = None
    for line in subprocess.run([nm, archive], capture_output=True, text=True, check=True).stdout.splitlines():
        m = re.match(r"^(\S+\.o):$", line)
        if m:
            name = m.group(1).rsplit("/", 1)[-1]  # thin archives name their members by path
            continue
        m = re.match(r"^(?:[0-9a-f]+\s+)?([A-Za-z])\s+(\S+)$", line.strip())
        if m and name:
            yield name, m.group(1), m.group(2)


def pure(name, patterns):
    return any(fnmatch.fnmatch(name, p) for p in patterns)


for archive, patterns in checks:
    for name, kind, symbol in symbols(archive):
        if kind not in "Uvw" and pure(name, patterns):
            defined.add(symbol)
errors = objects = imports = 0
for archive, patterns in checks:
    seen = set()
    for name, kind, symbol in symbols(archive):
        if not pure(name, patterns):
            continue
        seen.add(name)
        imports += kind == "U"
        if kind == "U" and symbol not in defined and not ALLOW.match(symbol):
            print(f"{archive}: {name} is a pure core and may not use {symbol}")
            errors += 1
    for p in patterns:
        if not fnmatch.filter(seen, p):
            print(f"{archive}: no object matches {p}")
            errors += 1
    objects += len(seen)
assert imports > 100, "nm was not understood: the cores import memory functions at least"
print(f"{objects} pure objects, {imports} imports, {errors} errors")
sys.exit(1 if errors else 0)
