"""What the filters of a placeholder do to a value.  Pure.

Owns nothing of how they are written (`placeholder`).  Shell workers import it, and have to start fast.
"""

from __future__ import annotations

import json


def apply_filters(value: bytes, filters: tuple[str, ...]) -> bytes:
    """The bytes that a placeholder stands for.

    Without a filter trailing newlines are dropped, as `$(...)` drops them.  `raw`, and `path` alone, keep the
    value whole; `trim` drops ASCII white space at both ends; `json` gives the text as a JSON string.
    Raises ValueError where `json` is asked for a value that is not UTF-8.
    """
    if "trim" in filters:
        value = value.strip(b" \t\n\r\v\f")
    elif "raw" not in filters and filters != ("path",):
        value = value.rstrip(b"\n")
    if "json" not in filters:
        return value
    try:
        return json.dumps(value.decode("utf-8"), ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the value is not UTF-8 (byte {error.start}), so JSON can't hold it") from None
