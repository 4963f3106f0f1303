"""What a build came across, for the snapshot that is taken after it. Pure.

Owns nothing but the memory: which files targets were given, which results are not kept, what lies outside
records.
"""

from __future__ import annotations

from collections.abc import Mapping
from sys import intern

from llmc_build.keys import Files
from llmc_build.model import Action, ActionResult, TargetId
from llmc_build.snapshot.form import marked
from llmc_build.store import INLINE
from llmc_build.store.record import digests


class Traces:
    def __init__(self) -> None:
        self.files: dict[TargetId, Mapping[str, str]] = {}  # inputs that a target was given -> `marked`
        self.not_kept: set[TargetId] = set()  # ran, and their results are not stored
        self.blobs: set[str] = set()  # SHA-256 of contents of results that records don't hold
        self.made: dict[TargetId, float] = {}  # when results that time may end were made, in s
        self.outputs: dict[str, str] = {}  # declared outputs that were placed -> `marked`

    def given(self, target: TargetId, files: Files) -> None:
        """A target reads some files."""
        if files:
            # a file that many targets read is one text in memory
            self.files[target] = {
                path: intern(marked(digest.hash, can)) for path, (digest, can) in files.items()
            }

    def gave(self, action: Action, result: ActionResult, made_s: float) -> None:
        """A result, which was made at that time, is in place."""
        if action.cache.ttl_s is not None:
            self.made[action.target] = made_s
        for output in result.outputs:
            self.outputs[output.path] = marked(output.digest.hash, output.executable)
        if result.value.size > INLINE or result.stderr.size > INLINE or result.outputs:
            self.blobs.update(digest.hash for digest in digests(result) if digest.size > INLINE)
