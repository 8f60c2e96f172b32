#!/usr/bin/env python3
"""The C programs printed in README.md compile without a warning and link with libleat, as a newcomer would do it.

usage: check_readme.py CC SOURCE-ROOT LIBLEAT
"""
import pathlib
import re
import subprocess
import sys
import tempfile

cc, root, library = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
programs = re.findall(r"^```c\n(.*?)^```$", (root / "README.md").read_text(), re.M | re.S)
assert len(programs) == 2, "a producer and a consumer"
errors = 0
with tempfile.TemporaryDirectory() as folder:
    for number, text in enumerate(programs):
        source = pathlib.Path(folder) / f"app{number}.c"
        source.write_text(text)
        r = subprocess.run([cc, "-Wall", "-Wextra", "-Werror", f"-I{root}/client/include", source, library,
                            "-o", source.with_suffix("")], capture_output=True, text=True)
        sys.stdout.write(r.stderr)
        errors += r.returncode != 0
print(f"{len(programs)} programs, {errors} errors")
sys.exit(1 if errors else 0)
