"""A file of many documents as pieces, so that an edit of one workflow needs only that one to be read.  Pure.

Owns where a document begins.  What a piece means is `reader`'s: `read(piece, file, first_line)`.

Theory of operation.  YAML 1.1, 1.2 and libyaml take `---` at the first column, followed by white space or the
end, for the beginning of a document wherever it stands: a block scalar is indented by a column at least, and
inside quotes or brackets such a line is an error of syntax, in the whole file and in its piece alike.  So a
document can be found without a parser, as long as nothing else changes how the text is read: directives
reach the documents behind them, `...` ends one without beginning another, a lone carriage return is a line
break too, and a byte order mark or a NUL speaks for an encoding that is not UTF-8.
"""

from __future__ import annotations

import re

from llmc_build.workflow.yamltext import MAX_BYTES

Piece = tuple[int, int, int]  # number of the first line, where the piece begins, where it ends

_MARKER = re.compile(rb"\n(?=---(?:[ \t\r\n]|\Z))")
_DOUBTFUL_STARTS = (b"...", b"%", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def split(data: bytes) -> list[Piece] | None:
    """The documents of a file, in order: they tile it.  None: it has to be read as a whole.

    Where no piece has a fault, reading each with its first line gives what reading the whole gives: the same
    workflows at the same places.  Only what involves two documents is not seen: workflows of one name.
    A file of one document is one piece; what stands before the first marker is a piece of its own.
    """
    if len(data) > MAX_BYTES or _is_doubtful(data):
        return None
    pieces: list[Piece] = []
    line, start = 1, 0
    for marker in _MARKER.finditer(data):
        stop = marker.end()
        pieces.append((line, start, stop))
        line += data.count(b"\n", start, stop)
        start = stop
    if start < len(data):
        pieces.append((line, start, len(data)))
    return pieces


def _is_doubtful(data: bytes) -> bool:
    """Whether anything stands here that more than the marker would have to be known for."""
    return (
        data.startswith(_DOUBTFUL_STARTS)
        or b"\0" in data
        or b"\n..." in data
        or (b"%" in data and b"\n%" in data)  # one byte is found much faster than two
        or (b"\r" in data and data.count(b"\r") != data.count(b"\r\n"))
    )
