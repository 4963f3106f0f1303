"""Models that are not in memory at the same time, and the blame for a model worker's death."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from llmc_build.execute.pool import Pool
from llmc_build.execute.protocol import Done, Lane, Status, Task
from llmc_build.execute.residence import Room
from llmc_build.llm import memory

# A runner that answers with its process id, dies of "die", and waits as long as it is asked to.
RUNNER = """
import os, time
from llmc_build.execute.channel import ChannelClosed
from llmc_build.execute.protocol import pack_content
def serve(channel, config):
    if config.get("stillborn"):
        os._exit(3)
    channel.send({"op": "ready", "capacity": config.get("parallel", 1)})
    jobs = []
    try:
        while True:
            message = channel.recv(0.01 if jobs else None)
            if message is not None and message["op"] == "run":
                if message["request"].get("sent"):
                    channel.send({"op": "sent", "id": message["id"]})
                jobs.append((time.monotonic() + message["request"].get("for_s", 0), message))
                with open(config["log"], "a") as log:
                    log.write(f"{message['id']} {len(jobs)}\\n")
                if message["request"].get("die") and os.path.exists(config["log"] + ".deadly"):
                    time.sleep(0.2)
                    os._exit(9)
            for job in [job for job in jobs if job[0] <= time.monotonic()]:
                jobs.remove(job)
                value = pack_content(str(os.getpid()).encode(), lambda data: None)
                channel.send({"op": "done", "id": job[1]["id"], "status": "ok", "reply": {"value": value}, "error": None, "wall_s": 0.0})
    except ChannelClosed:
        pass
"""


class Models:
    def __init__(self, folder: Path, room: Room | None = None) -> None:
        module = folder / "fake_model_runner.py"
        module.write_text(RUNNER)
        self.notes: list[str] = []
        self.log = folder / "log"
        self.pool = Pool(
            1,
            folder / "cas",
            runners={"model": "fake_model_runner", "http": "fake_model_runner"},
            models=room or Room(note=self.notes.append),
        )
        self._count = 0
        self.lane_of: dict[int, str] = {}

    def lane(self, name: str, **config: object) -> Lane:
        fields = {
            "path": f"/{name}.gguf",
            "label": name,
            "weights": 100 << 20,
            "memory": 20 << 20,
            "log": str(self.log),
        }
        return Lane(kind="model", name=name, config={**fields, **config})  # type: ignore[arg-type]

    def ask(self, lane: Lane, **request: object) -> int:
        self._count += 1
        self.pool.submit(Task(id=self._count, lane=lane, request=request))  # type: ignore[arg-type]
        return self._count

    def ends(self) -> dict[int, Done]:
        found: dict[int, Done] = {}
        limit = time.monotonic() + 60
        while self.pool.busy:
            assert time.monotonic() < limit
            found.update({item.id: item for item in self.pool.wait(5) if isinstance(item, Done)})
        return found

    @property
    def begun(self) -> list[tuple[int, int]]:
        """What workers began: the task, and how many they had with it."""
        lines = self.log.read_text().splitlines()
        return [(int(a), int(b)) for a, b in (line.split() for line in lines)]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    monkeypatch.syspath_prepend(tmp_path)
    return Models(tmp_path)


def limited(tmp_path: Path, **room: int) -> Models:
    notes: list[str] = []
    made = Models(tmp_path, Room(note=notes.append, **room))  # type: ignore[arg-type]
    made.notes = notes
    return made


def pids(found: dict[int, Done], *tasks: int) -> set[object]:
    return {found[task].reply["value"]["data"] for task in tasks}  # type: ignore[index,call-overload]


def test_models_that_fit_together_stay(models: Models) -> None:
    with models.pool:
        a, b = models.lane("a"), models.lane("b")
        first = [models.ask(a), models.ask(b)]
        found = models.ends()
        again = [models.ask(a), models.ask(b)]
        found.update(models.ends())
    assert len(pids(found, *first, *again)) == 2
    assert models.notes == []


def test_a_model_that_does_not_fit_waits_and_takes_the_place_of_the_one_idle_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    models = limited(tmp_path, memory=250 << 20)
    with models.pool:
        a, b, c = models.lane("a"), models.lane("b"), models.lane("c")
        first = models.ask(a)
        found = models.ends()
        models.ask(b)
        found.update(models.ends())
        again = models.ask(a)
        found.update(models.ends())  # now b is idle longest
        models.ask(c)
        found.update(models.ends())
        third = models.ask(a)
        found.update(models.ends())
    assert pids(found, first, again) == pids(found, third)
    assert models.notes == [
        "model b (120 MiB) is unloaded to make room for model c (120 MiB): models may take 250 MiB of memory together"
    ]


def test_a_busy_model_is_not_unloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    models = limited(tmp_path, memory=130 << 20)
    with models.pool:
        a, b = models.lane("a", parallel=2), models.lane("b")
        tasks = [models.ask(a, for_s=0.4), models.ask(b), models.ask(a, for_s=0.6), models.ask(a)]
        found = models.ends()
    assert all(done.status is Status.OK for done in found.values())
    assert len(pids(found, tasks[0], tasks[2], tasks[3])) == 1
    assert [task for task, _ in models.begun][-1] == tasks[1]


def test_workers_on_one_file_share_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    models = limited(tmp_path, memory=145 << 20)
    with models.pool:
        a, same = models.lane("a"), models.lane("b", path="/a.gguf")
        tasks = [models.ask(a), models.ask(same), models.ask(a)]
        found = models.ends()
    assert len(pids(found, *tasks)) == 2
    assert models.notes == []


def test_one_worker_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    models = limited(tmp_path, workers=1)
    with models.pool:
        a, b = models.lane("a"), models.lane("b")
        tasks = [models.ask(a, for_s=0.2), models.ask(b), models.ask(a)]
        found = models.ends()
    assert all(found[task].status is Status.OK for task in tasks)
    assert models.begun[-1][0] == tasks[1]


def test_a_model_larger_than_the_limit_is_loaded_when_it_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes lanes refuses those that can't fit; the pool must not wait for ever for one."""
    monkeypatch.syspath_prepend(tmp_path)
    models = limited(tmp_path, memory=1)
    with models.pool:
        models.ask(models.lane("a"))
        models.ask(models.lane("b"))
        assert all(done.status is Status.OK for done in models.ends().values())


def test_a_worker_finds_modules_where_llmc_itself_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker could run another version of llmc than the build, where two are installed."""
    (tmp_path / "click.py").write_text(RUNNER)  # as a package that is installed is called
    monkeypatch.syspath_prepend(tmp_path)
    with Pool(1, tmp_path / "cas", runners={"model": "click"}) as pool:
        lane = Lane(kind="model", config={"log": str(tmp_path / "log")})
        pool.submit(Task(id=1, lane=lane, request={}))
        assert [done.status for done in pool.wait(20) if isinstance(done, Done)] == [Status.OK]


# ---------------------------------------------------------------- who is to blame


def test_the_request_that_kills_its_worker_each_time_fails_alone(models: Models) -> None:
    Path(f"{models.log}.deadly").touch()
    with models.pool:
        lane = models.lane("a", parallel=4)
        tasks = [
            models.ask(lane, for_s=0.5),
            models.ask(lane, die=True),
            models.ask(lane),
            models.ask(lane, for_s=0.1),
        ]
        found = models.ends()
        later = models.ask(lane)
        found.update(models.ends())
    assert [found[task].status for task in (*tasks, later)] == [
        Status.OK, Status.CRASHED, Status.OK, Status.OK, Status.OK,
    ]  # fmt: skip
    assert found[tasks[1]].error == "the worker died: exit code 9"
    deaths = [(task, beside) for task, beside in models.begun if task == tasks[1]]
    assert [beside for _, beside in deaths[1:]] == [1, 1]  # alone, twice, and then no more
    assert models.notes[0] == "the worker died: exit code 9; what it had to answer is asked again, each alone"


def test_a_request_to_a_server_that_kills_its_worker_each_time_fails_alone(models: Models) -> None:
    """They are asked together once more, since to ask them one by one takes long; then each alone."""
    Path(f"{models.log}.deadly").touch()
    with models.pool:
        lane = Lane(kind="http", config={"log": str(models.log), "parallel": 3})
        tasks = [models.ask(lane, for_s=0.5, sent=True), models.ask(lane, die=True, sent=True)]
        in_line = models.ask(lane, for_s=0.5)
        found = models.ends()
    assert [found[task].status for task in (*tasks, in_line)] == [Status.OK, Status.CRASHED, Status.OK]
    assert found[tasks[1]].error == "the worker died: exit code 9"
    assert [beside > 1 for task, beside in models.begun if task == tasks[1]] == [True, True, False]
    assert (
        models.notes
        == ["the worker died: exit code 9; 2 requests that it had sent may be charged twice: asked again"] * 2
    )


def test_requests_of_a_worker_that_was_killed_are_answered_by_another(models: Models) -> None:
    with models.pool:
        lane = models.lane("a", parallel=3)
        tasks = [models.ask(lane, for_s=0.6) for _ in range(3)]
        while not models.log.exists() or len(models.begun) < 3:
            models.pool.wait(0.05)
        os.kill(_children()[0], 9)
        found = models.ends()
    assert all(found[task].status is Status.OK for task in tasks)
    assert [beside for _, beside in models.begun] == [1, 2, 3, 1, 1, 1]


def test_workers_that_die_before_they_are_ready_fail_what_waits_for_them(models: Models) -> None:
    with models.pool:
        lane = models.lane("a", stillborn=True, parallel=2)
        tasks = [models.ask(lane) for _ in range(5)]
        found = models.ends()
    assert {found[task].status for task in tasks} == {Status.CRASHED}
    assert {found[task].error for task in tasks} == {"the worker died: exit code 3"}


def _children() -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
            command = (place.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and b"execute.worker" in command:
            found.append(int(place.parent.name))
    return found


# ---------------------------------------------------------------- estimates


def gguf(path: Path, **values: int) -> Path:
    """A header that says what a model is made of."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    entries = [text("general.architecture") + struct.pack("<I", 8) + text("tiny")]
    entries += [text(f"tiny.{name}") + struct.pack("<II", 4, value) for name, value in values.items()]
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries))
    return path


SHAPE = {"block_count": 30, "embedding_length": 576, "attention.head_count": 9, "attention.head_count_kv": 3}


def test_what_a_model_takes_is_read_from_its_header(tmp_path: Path) -> None:
    file = gguf(tmp_path / "m.gguf", context_length=2048, **SHAPE)
    need = memory.need_of(file, context=None, parallel=2, limit=None)
    assert (need.parallel, need.context) == (2, 2048)
    assert need.sequences == 2 * 2048 * 23_040  # as measured with SmolLM2-135M
    assert need.weights == file.stat().st_size
    assert need.whole == need.weights + need.sequences + need.computing
    assert need.own == need.whole - need.weights + need.states


def test_what_is_kept_of_beginnings_is_within_what_models_may_take(tmp_path: Path) -> None:
    file = gguf(tmp_path / "m.gguf", context_length=2048, **SHAPE)

    def states(limit: int | None) -> int:
        return memory.need_of(file, context=None, parallel=2, limit=limit).states

    whole = memory.need_of(file, context=None, parallel=2, limit=None).whole
    assert states(None) == states(100 << 30) == 1 << 30
    assert states(whole + (4 << 30)) == 512 << 20
    assert states(whole + (100 << 20)) == 2048 * 23_040  # that of one prompt
    assert states(whole + 1000) == 1000
    assert states(whole - 1000) == 0


def test_as_many_requests_at_a_time_as_memory_suffices_for(tmp_path: Path) -> None:
    file = gguf(tmp_path / "m.gguf", context_length=8192, **SHAPE)

    def parallel(limit: int | None) -> int:
        return memory.need_of(file, context=None, parallel=None, limit=limit).parallel

    assert parallel(None) == 16
    assert parallel(100 << 30) == 16
    assert parallel(1 << 30) == 5
    assert parallel(1 << 20) == 1


def test_a_file_that_says_nothing_of_itself_has_an_estimate_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"no model at all")
    assert memory.need_of(tmp_path / "m.gguf", context=None, parallel=None, limit=None).whole > 0


def test_free_memory_is_known_here() -> None:
    free = memory.free_memory()
    assert free is not None
    assert free > 0
    limit = memory.default_limit()
    assert limit is not None
    assert limit < 1 << 50
