"""A secret is given to its step and found nowhere else: every byte that a build leaves is searched."""

from __future__ import annotations

import base64
import os
import signal
import sys
import time
import urllib.parse
from typing import Any

import pytest

from tests.conftest import Space
from tests.faults import trees

TOKEN = "s3cr/t+t0ken'%é\"$x"
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEAAoIBAQC7\n-----END KEY-----\n"
NEEDLES = (
    TOKEN.encode(),
    urllib.parse.quote(TOKEN, safe="").encode(),
    base64.b64encode(TOKEN.encode())[:-4],
    base64.b64encode(b"u" + TOKEN.encode())[2:-4],
    base64.b64encode(b"us" + TOKEN.encode())[3:-4],
    TOKEN.encode().hex().encode(),
    b"MIIEvQIBADANBgkqhkiG9w0BAQEF",
    b"AASCBKcwggSjAgEAAoIBAQC7",
)
QUOTED = urllib.parse.quote(TOKEN, safe="").replace("%", "%%")
STEPS = {
    "plain": 'echo "got $TOKEN and $PEM"; echo "$TOKEN" >&2',
    "encoded": 'for p in "" u us; do printf "%s%s and more of it" "$p" "$TOKEN" | base64; done',
    "urlish": f"printf '{QUOTED}'; printf %s \"$TOKEN\" | od -An -v -tx1",
    "traced": 'set -x; true "$TOKEN"; printf %q "$TOKEN"; export -p; env',
    "split": 'printf %s "${TOKEN%????}"; sleep 0.1; printf %s "${TOKEN#"${TOKEN%????}"}"',
    "across": 'head -c 1048570 /dev/zero | tr "\\\\0" x; echo "$TOKEN"; head -c 999999 /dev/zero | tr "\\\\0" x',
    "fails": 'echo "wrong: $TOKEN" >&2; exit 3',
    "killed": 'echo "$TOKEN"; kill -9 $$',
    "late": 'echo "$TOKEN"; echo "$TOKEN" >&2; sleep 50',
    "names": 'echo x > "name-of-$(printf %s "$TOKEN" | tr / _)"',
    "keeps": 'echo "$TOKEN" > kept; echo "$TOKEN" > "$TMPDIR/also"',
    "gives": 'echo "$TOKEN" > page',
    "bad": 'cat "$TOKEN"',
}


@pytest.fixture
def workspace(space: Space) -> Space:
    lines = ["name: w", "order: dataflow", "defaults: {secrets: [TOKEN, PEM], shell: bash}", "steps:"]
    for name, script in STEPS.items():
        lines += [f"  - name: {name}", f"    command: |\n      {script}"]
        lines += ["    timeout: 1"] if name == "late" else []
        lines += ["    outputs: [page]"] if name == "gives" else []
    space.write("flow.yaml", "\n".join(lines) + "\n")
    return space


def options(space: Space) -> dict[str, Any]:
    environ = {**os.environ, "CI": "true", "PYTHONPATH": trees.HERE, "TOKEN": TOKEN, "PEM": PEM}
    return {"env": {**environ, "TMPDIR": str(space.root / "tmp"), "LC_ALL": "C.UTF-8"}}


def searched(space: Space) -> tuple[int, list[str]]:
    """(bytes searched, where a secret was found); names of files count."""
    total, found = 0, []
    for path in space.root.rglob("*"):
        named = TOKEN.replace("/", "_") in path.name
        try:
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        except FileNotFoundError:  # removed while it was found
            continue
        total += len(data)
        # Also what was broken into lines, or written with spaces between the bytes.
        unbroken = data.translate(None, b" \n")
        if named or any(needle in data or needle in unbroken for needle in NEEDLES):
            found.append(str(path))
    return total, found


def test_a_build_leaves_no_secret_anywhere(workspace: Space) -> None:
    space = workspace
    (space.root / "tmp").mkdir()
    process = trees.start(space, "flow.yaml", "-v", "-v", "--events", "events", **options(space))
    lines: set[str] = set()
    while process.poll() is None:
        lines.update(" ".join(p.argv) for p in trees.everything() if p.argv[:1] != ("cat",))
        time.sleep(0.05)
    out, err = process.communicate()
    states = {target["target"]: target["status"] for target in trees.json.loads(out)["targets"]}
    failed = {f"w.{name}" for name in ("fails", "killed", "late", "gives", "bad")}
    assert {name for name, state in states.items() if state == "failed"} == failed
    space.write("printed", out + err)
    total, found = searched(space)
    assert total > 2_000_000, "there was something to search"
    assert found == []
    # `true "$TOKEN"` of bash and its builtins start no process; what a script puts on a command line is its own.
    assert not [line for line in lines if TOKEN in line and "llmc" in line]
    assert b"***" in (space.root / ".llmc/out/w/plain").read_bytes()


def test_the_search_finds_what_is_there(workspace: Space) -> None:
    """The control: without `secrets`, everything is found."""
    space = workspace
    space.edit("flow.yaml", "secrets: [TOKEN, PEM]", "env: [TOKEN, PEM]")
    (space.root / "tmp").mkdir()
    trees.ended(trees.start(space, "flow.yaml", **options(space)))
    _, found = searched(space)
    for name in ("plain", "encoded", "urlish", "split", "across"):
        assert any(path.endswith(f".llmc/out/w/{name}") for path in found), name


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("whom", ["llmc", "a worker", "llmc and its workers"])
def test_a_build_that_is_killed_leaves_no_secret(space: Space, whom: str) -> None:
    script = 'echo "$TOKEN"; echo "$TOKEN" >&2; echo "$TOKEN" > kept; echo "$TOKEN" > "$TMPDIR/t"; : > {}; sleep 60'
    mark = space.root / "there"
    space.write(
        "flow.yaml",
        "name: w\nsteps:\n  - name: s\n    secrets: [TOKEN]\n    command: |\n      "
        + script.format(mark)
        + "\n",
    )
    (space.root / "tmp").mkdir()
    process = trees.start(space, "flow.yaml", **options(space))
    trees.until(mark.exists, "the step")
    workers = trees.workers(process.pid)
    trees.kill([process.pid] if "llmc" in whom else [], signal.SIGKILL)
    trees.kill(workers if "worker" in whom else [], signal.SIGKILL)
    process.communicate(timeout=60)
    limit = time.monotonic() + 20
    while searched(space)[1] and time.monotonic() < limit:
        time.sleep(0.1)  # for the guardian
    assert searched(space)[1] == []
