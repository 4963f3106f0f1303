"""A build of some targets reads the values of others, which are looked up and never believed unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc_build import plan, workflow
from llmc_build.binder import Binder
from llmc_build.execute.protocol import content_data
from llmc_build.graph import ActionGraph
from llmc_build.inputs import Inputs
from llmc_build.lanes import Lanes
from llmc_build.model import ActionResult, Digest, TargetId
from llmc_build.outputs import Outputs, value_path
from llmc_build.outside import Outside
from llmc_build.resolve import resolve
from llmc_build.store import Record, Store
from llmc_build.store.cas import digest_of
from llmc_build.store.files import write_atomic
from llmc_build.store.state import FileDigests
from llmc_build.why import Options

FLOW = """
name: w
order: dataflow
steps:
  - {name: a, command: echo a, output: x}
  - {name: b, command: 'echo {{x}}', if: "'value' in {{x}}"}
"""
KEY = "ab" * 32
SMALL, LARGE = b"value\n", b"value\n" * 1000


class Space:
    """A workspace in which `w.a` was built before, and `w.b` is to be built alone."""

    def __init__(self, folder: Path, value: bytes | None) -> None:
        self.home = folder / ".llmc"
        self.folder = folder
        self.store = Store.open(folder / "cache", print)
        self.digest = None if value is None else digest_of(value)

    def binder(self) -> Binder:
        program = resolve(workflow.parse(FLOW, "f.yaml"))
        digests = FileDigests(self.home / "state" / "digests")
        outside = Outside(home=self.home, store=self.store, digest=self._digest, key=lambda target: KEY)
        graph = ActionGraph(("w.b",), ())
        return Binder(
            program=program,
            graph=graph,
            store=self.store,
            inputs=Inputs(self.folder, digests, {}, graph.comes_after, ()),
            outputs=Outputs(self.folder, self.home, self.store, digests),
            lanes=Lanes(
                models={}, workspace=self.folder, digests=digests, environ={}, store=self.store.cas_root
            ),
            environ={},
            workspace=self.folder,
            scratch=self.folder,
            options=Options(),
            last_key=lambda target: None,
            outside=outside,
        )

    def _digest(self, target: TargetId) -> Digest | None:
        assert target == "w.a"
        return self.digest

    def given(self) -> bytes | None:
        """The value that the worker of `w.b` is given."""
        binder = self.binder()
        assert isinstance(binder.check("w.b"), plan.Miss)
        (variable,) = binder.task("w.b", 1, self.folder).request["variables"]  # type: ignore[union-attr,misc]
        content = variable["content"]  # type: ignore[index,call-overload]
        return content_data(content) if "data" in content else Path(content["file"]).read_bytes()  # type: ignore[operator,arg-type,index,call-overload]


@pytest.mark.parametrize("value", [SMALL, LARGE])
def test_a_value_from_outside_is_taken_from_where_it_was_placed(tmp_path: Path, value: bytes) -> None:
    space = Space(tmp_path, value)
    write_atomic(value_path(space.home, "w.a"), value)
    assert space.given() == value


@pytest.mark.parametrize("value", [SMALL, LARGE])
@pytest.mark.parametrize("there", [None, b"value, but changed by hand"])
def test_a_value_that_is_not_in_place_comes_from_the_record_of_its_action(
    tmp_path: Path, value: bytes, there: bytes | None
) -> None:
    space = Space(tmp_path, value)
    result = ActionResult(value=space.store.add(value), stderr=space.store.add(b""))
    space.store.commit([Record(key=KEY, components={}, result=result, created=1.0)])
    space.store.close()
    space = Space(tmp_path, value)
    if there is not None:
        write_atomic(value_path(space.home, "w.a"), there)
    assert space.given() == value


def test_a_value_that_is_nowhere_is_an_error_and_never_a_guess(tmp_path: Path) -> None:
    space = Space(tmp_path, SMALL)
    write_atomic(value_path(space.home, "w.a"), b"something else")
    assert space.binder().check("w.b") == plan.Broken(
        error="the value of x was lost from the store; build again"
    )


def test_the_value_of_a_skipped_target_outside_is_empty(tmp_path: Path) -> None:
    assert isinstance(Space(tmp_path, None).binder().check("w.b"), plan.Skip)
