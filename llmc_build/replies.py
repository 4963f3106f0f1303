"""What a worker's answer means.  World: contents go into the store.

Owns how a reply (`execute.protocol`, and the runners of the lanes) becomes an ActionResult, and what its
texts can tell a user.  What is done with a result is `binder`.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmc_build.execute.protocol import Done, content_data, content_digest
from llmc_build.model import ActionResult, Digest, Json, OutputFile
from llmc_build.store import Store
from llmc_build.store.cas import EMPTY


def result(done: Done, store: Store) -> ActionResult:
    """The result of a task that ended well."""
    reply = done.reply
    code = reply.get("exit_code")
    provenance: dict[str, Json] = {"wall_s": round(done.wall_s, 6)}
    stats = reply.get("stats")
    if isinstance(stats, dict):
        provenance.update(stats)
    return ActionResult(
        value=_keep(reply.get("value"), store),
        stderr=_keep(reply.get("stderr"), store),
        exit_code=code if isinstance(code, int) else 0,
        outputs=tuple(
            OutputFile(
                path=str(entry["path"]),
                digest=_keep(entry["content"], store),
                executable=bool(entry.get("executable")),
            )
            for entry in objects(reply.get("outputs"))
        ),
        provenance=provenance,
    )


def _keep(content: Json, store: Store) -> Digest:
    assert isinstance(content, dict)
    data = content_data(content)
    if data is None:
        return content_digest(content)
    if not data:
        return EMPTY
    digest = Digest(hash=content_digest(content).hash, size=len(data))  # of these very bytes
    store.keep(digest, data)
    return digest


def texts(value: Json) -> list[str]:
    """A list of texts in a reply; an empty one where it has none."""
    return [str(item) for item in value] if isinstance(value, list) else []


def objects(value: Json) -> list[dict[str, Json]]:
    """A list of objects in a message; an empty one where it has none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def paths_in(text: str) -> Iterator[str]:
    """Words of an error message that could be relative paths, the longest paths first."""
    words = {word.strip("'\"`:;,()<>[]=.").removeprefix("./") for word in text.split()}
    for word in sorted(words, key=lambda w: (-w.count("/"), w)):
        if word and not word.startswith(("/", "-", "..", "~", "$")) and len(word) <= 255 and "\0" not in word:
            yield word
