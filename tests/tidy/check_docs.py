#!/usr/bin/env python3
"""What the documents name is there: the files of the folder READMEs and of docs/, and the functions of the life of one record in
docs/architecture.md, each in the file of its row; the tests that docs/testing.md counts on."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
FILE = re.compile(r"`([\w./-]+\.(?:c|h|py|md|txt|in|conf|map|sh|csv))`")
NOT_OURS = {"leat.conf", "/etc/leat/main/leat.conf", "messages.h", "messages.c", "bad.conf"}  # made by the build, or on a host


def exists(name, document):
    places = [document.parent, root, *(d for d in root.iterdir() if d.is_dir()), *(root / "docs").iterdir()]
    return any((p / name).exists() for p in places) or any(document.parent.rglob(name))


problems = []
documents = [root / "README.md", *root.glob("*/README.md"), *(root / "wire").glob("*/README.md"), *(root / "docs").rglob("*.md")]
for document in documents:
    for name in FILE.findall(document.read_text()):
        if not (name in NOT_OURS or name.startswith("/") or exists(name, document)):
            problems.append(f"{document.relative_to(root)}: there is no {name}")

steps = re.findall(r"^\| \d+ \|.*\| `([\w/.-]+)` \| (.*) \|$", (root / "docs/architecture.md").read_text(), re.M)
if len(steps) < 10:
    problems.append("docs/architecture.md: the life of one record has no table any more")
for file, functions in steps:
    code = (root / file).read_text() if (root / file).exists() else ""
    for name in re.findall(r"`(\w+)\(\)`", functions):
        if not re.search(rf"^(?:[a-zA-Z].*[ *])?{name}\(", code, re.M):
            problems.append(f"docs/architecture.md: {file} defines no {name}()")

tests = re.findall(r"`(tests/[\w/.-]+)` \(([^)]*)\)", (root / "docs/testing.md").read_text())
for file, names in tests:
    code = (root / file).read_text() if (root / file).exists() else ""
    for name in re.findall(r"`(\w+)`", names):
        if not re.search(rf"^(?:def {name}\(|START_TEST\({name}\))", code, re.M):
            problems.append(f"docs/testing.md: {file} has no test {name}")
if len(tests) < 40:
    problems.append("docs/testing.md: the table of faults is gone")

print("\n".join(problems) or f"{len(documents)} documents, {len(steps)} steps, {len(tests)} places of tests")
sys.exit(1 if problems else 0)
