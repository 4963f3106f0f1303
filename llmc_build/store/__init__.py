"""The store: results by action key, contents by digest; also run records and remembered digests.

`Store` is what the build uses.  The modules behind it, from the bottom up: `files` (atomic writing),
`cas` (blobs), `record` (a result and its bytes), `rawdisk` and `index` (records by key), `locks`,
`facade` (`Store`).  Beside it stand `runs` (folders of runs) and `state` (what may be forgotten).
The format on the disk is specified in `cache/README.md`.

Worker processes import `llmc_build.store.cas` and must start fast, so the names below are
loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmc_build.store.facade import Store
    from llmc_build.store.record import INLINE, Record

__all__ = ["INLINE", "Record", "Store"]


def __getattr__(name: str) -> object:
    if name == "Store":
        from llmc_build.store.facade import Store

        return Store
    if name in ("Record", "INLINE"):
        from llmc_build.store import record

        return getattr(record, name)
    raise AttributeError(name)
