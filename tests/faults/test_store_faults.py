"""The store under kills, full disks and many processes; and the order in which it writes."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc_build.store import Store

PRELUDE = """
import hashlib, os, sys, time
from pathlib import Path
from llmc_build.model import ActionResult, OutputFile
from llmc_build.store import Record, Store
store = Store.open(Path(sys.argv[1]), lambda text: print("note:", text, flush=True))

def record(name):
    key = hashlib.sha256(name.encode()).hexdigest()
    outputs = (OutputFile(path="out", digest=store.add(name.encode() * 2000)),)
    result = ActionResult(value=store.add(name.encode()), stderr=store.add(b""), outputs=outputs)
    return Record(key=key, components={"name": name}, result=result, created=time.time())
"""


_throwaway = Path()


@pytest.fixture(autouse=True)
def _own_throwaway_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _throwaway
    _throwaway = tmp_path_factory.mktemp("spill")


def start(code: str, *args: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + code, *map(str, args)]
    options["env"] = {**os.environ, "TMPDIR": str(_throwaway)}  # what a killed process leaves, pytest removes
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


def names_in(root: Path, names: list[str]) -> list[str]:
    """Which of these results are hits, every byte verified, in the order given."""
    import hashlib

    notes: list[str] = []
    store = Store.open(root, notes.append)
    keys = {hashlib.sha256(name.encode()).hexdigest(): name for name in names}
    hits = store.lookup_many(keys)
    found = [name for key, name in keys.items() if key in hits]
    assert all(store.read(hit.result.value) == keys[key].encode() for key, hit in hits.items())
    store.close()
    assert notes == []
    return found


# ---------------------------------------------------------------- kills

WRITE = """
name, count = sys.argv[2], 0
while True:
    group = [f"{name}-{count + i} " for i in range(3)]
    store.commit([record(item) for item in group])
    count += 3
    for item in group:
        os.write(1, item.encode() + b"\\n")
"""


@pytest.mark.timeout(240)
def test_what_was_acknowledged_survives_kill_9_at_any_time(
    tmp_path: Path, amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    """Rounds on one store, two writers each, killed at random moments; also while the index is made.

    In every second round the moment counts from the first result that a writer reports, however slow the machine.
    """
    acknowledged: list[str] = []
    rounds = amount(20, 200)
    for number in range(rounds):
        writers = [start(WRITE, tmp_path / "store", f"{number}{letter}") for letter in "ab"]
        first = os.read(writers[0].stdout.fileno(), 1 << 16) if number % 2 else b""  # type: ignore[union-attr]
        time.sleep(chance.uniform(0.0, 0.1) if number % 2 else chance.uniform(0.05, 0.45))
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
        output = "".join([first.decode(), *[writer.communicate(timeout=30)[0] for writer in writers]])
        lines = output.splitlines()
        assert names_in(tmp_path / "store", lines) == lines
        acknowledged += lines
        tally["writers killed"] += 2
        tally["results acknowledged before"] += len(lines)
    assert names_in(tmp_path / "store", acknowledged) == acknowledged
    assert len(acknowledged) >= rounds // 2
    assert not list((tmp_path / "store").glob("quarantine/*"))


@pytest.mark.timeout(120)
def test_processes_share_a_store(tmp_path: Path) -> None:
    """Six begin at once, on a store that none of them finds made."""
    code = """
for i in range(15):
    store.commit([record(f"{sys.argv[2]}-{i}"), record(f"shared-{i}")])
"""
    writers = [start(code, tmp_path / "store", number) for number in range(6)]
    assert [(writer.communicate(timeout=100)[0], writer.returncode) for writer in writers] == [("", 0)] * 6
    names = [f"{number}-{i}" for number in [*range(6), "shared"] for i in range(15)]
    assert names_in(tmp_path / "store", names) == names


@pytest.mark.timeout(120)
def test_processes_that_find_a_damaged_index_repair_it_once(tmp_path: Path) -> None:
    code = "store.commit([record(f'{sys.argv[2]}-{i}') for i in range(5)])\nstore.close()"
    start(code, tmp_path / "store", "before").communicate(timeout=60)
    (tmp_path / "store" / "index" / "cache.db").write_bytes(b"not a database at all" * 1000)
    writers = [start(code, tmp_path / "store", number) for number in range(5)]
    output = "".join(writer.communicate(timeout=100)[0] for writer in writers)
    assert output.count("note:") == output.count("was damaged") == 1
    names = [f"{number}-{i}" for number in range(5) for i in range(5)]
    assert names_in(tmp_path / "store", names) == names
    assert len(list((tmp_path / "store" / "quarantine").iterdir())) == 1


def test_an_action_is_run_by_one_of_many_processes(tmp_path: Path) -> None:
    """As a build does it: look up, lock, look up again, run, store, unlock."""
    code = """
run = record("the action")
while store.lookup(run.key) is None:
    if store.try_lock(run.key):
        if store.lookup(run.key) is None:
            print("ran", flush=True)
            time.sleep(0.2)
            store.commit([run])
        store.unlock(run.key)
    time.sleep(0.01)
"""
    processes = [start(code, tmp_path / "store") for _ in range(4)]
    assert sorted(process.communicate(timeout=60)[0] for process in processes) == ["", "", "", "ran\n"]


# ---------------------------------------------------------------- the order of writes


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.timeout(120)
def test_a_blob_is_on_the_disk_before_its_name_and_its_name_before_the_record(tmp_path: Path) -> None:
    """DESIGN, The store: temporary file, write, fsync, rename, fsync of the folder, record committed."""
    trace = tmp_path / "trace"
    code = """
store.commit([record("warm up")])
os.path.exists("/MARK-BEGIN")
store.commit([record("traced")])
os.path.exists("/MARK-END")
"""
    calls = "openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,stat,newfstatat"
    command = [
        "strace",
        "-f",
        "-y",
        "-o",
        trace,
        "-e",
        f"trace={calls}",
        sys.executable,
        "-c",
        PRELUDE + code,
    ]
    done = subprocess.run([*map(str, command), str(tmp_path / "store")], capture_output=True, timeout=100)
    if b"ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    lines = trace.read_text().partition("/MARK-BEGIN")[2].partition("/MARK-END")[0].splitlines()

    def first(pattern: str, after: int = -1) -> int:
        found = [i for i, line in enumerate(lines) if i > after and re.search(pattern, line)]
        assert found, f"no {pattern} after line {after} of\n" + "\n".join(lines)
        return found[0]

    written = first(r"\bwrite\(\d+<[^>]*/store/tmp/\.llmc-")
    synced = first(r"\bf(data)?sync\(\d+<[^>]*/store/tmp/\.llmc-", written)
    renamed = first(r"\brename\w*\(.*/store/tmp/\.llmc-.*/store/cas/../[0-9a-f]{64}", synced)
    folder = first(r"\bf(data)?sync\(\d+<[^>]*/store/cas/..>", renamed)
    logged = first(r"\bpwrite64\(\d+<[^>]*/index/cache\.db-wal>")
    committed = first(r"\bf(data)?sync\(\d+<[^>]*/index/cache\.db-wal>", folder)
    assert written < synced < renamed < folder < logged < committed


# ---------------------------------------------------------------- full and read-only disks


def mount(where: Path, options: str) -> None:
    where.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount here")


@pytest.mark.timeout(120)
def test_on_a_full_disk_the_build_goes_on_and_what_was_stored_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    mount(disk, "size=3m")
    try:
        code = """
for i in range(int(sys.argv[3])):
    kept = record(f"{sys.argv[2]}-{i}")
    store.commit([kept])
    assert store.lookup(kept.key) == kept
    assert store.read(kept.result.outputs[0].digest) == f"{sys.argv[2]}-{i}".encode() * 2000
print("went on")
"""
        small = start(code, disk / "store", "small", 20)
        assert small.communicate(timeout=60)[0] == "went on\n"
        many = start(code, disk / "store", "many", 1000)
        output = many.communicate(timeout=100)[0]
        assert output.count("note:") == 1
        assert "the build goes on uncached" in output
        assert output.endswith("went on\n")
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)  # room again
        names = [f"small-{i}" for i in range(20)]
        assert names_in(disk / "store", names) == names
        assert not list((disk / "store").glob("quarantine/index*"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.mark.timeout(120)
def test_on_a_read_only_disk_hits_are_served(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    mount(disk, "size=20m")
    try:
        code = "store.commit([record(f'{sys.argv[2]}-{i}') for i in range(5)])"
        start(code, disk / "store", "kept").communicate(timeout=60)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        code = """
kept, new = record("kept-3"), record("new")
print(store.lookup(kept.key).result == kept.result, store.lookup(new.key))
store.commit([new])
print(store.lookup(new.key) == new, store.try_lock(new.key), store.cas_root == store.spill)
"""
        output = start(code, disk / "store").communicate(timeout=60)[0]
        assert output.splitlines()[1:] == ["True None", "True True True"]
        assert output.count("note:") == 1
        assert "Read-only file system" in output
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
