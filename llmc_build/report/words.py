"""The texts of a report: the last line, durations, what a terminal may be sent.  Pure.

Owns how things are worded and made harmless.  Where and when they are printed is `console`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmc_build.model import BuildReport, Json, State
from llmc_build.terminal import up_to_date

SHOWN_FAILURES = 20  # shown in full at the end of a build; the others are in run.json
SHOWN_WARNINGS = 20
SHOWN_LINES = 200  # of a build while it runs, of each kind: a log is not to be flooded

# What a terminal obeys, or what makes a line read as what it is not: control characters but newline and
# tab, the C1 range, line and paragraph separators, bidirectional overrides, lone surrogates.
_HOSTILE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def _spell(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8, as os.fsdecode and surrogateescape give it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable(text: str) -> str:
    """`text` with everything that a terminal would act on spelt out; newlines and tabs stay."""
    return _HOSTILE.sub(_spell, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The first line of a text, harmless."""
    return printable(text.split("\n", 1)[0].rstrip())


def indent(text: str, prefix: str) -> str:
    """Every line of `text` behind `prefix`, without a trailing newline."""
    return "\n".join(prefix + line for line in text.rstrip("\n").split("\n"))


def short_time(seconds: float) -> str:
    """An elapsed time for a narrow column: 4.2s, 1m05s, 2h03m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    if seconds < 3600:
        return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"
    return f"{int(seconds) // 3600}h{int(seconds) % 3600 // 60:02d}m"


def size(count: int) -> str:
    """A number of bytes for people: 17 B, 4.2 KiB, 98.0 MiB."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def cells(text: str) -> int:
    """The columns that a line takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, columns: int) -> str:
    """A line that takes at most so many columns, the end of a longer one left out."""
    if cells(text) <= columns:
        return text
    text = text[: max(0, columns - 1)]
    while cells(text) >= columns > 0:
        text = text[:-1]
    return text + "…"


def progress(ended: Mapping[State, int], total: int) -> str:
    """How far a build is: `[ 120/1000] 100 ran, 20 cached`."""
    count = sum(ended.values())
    listed = ", ".join(f"{ended[state]} {state.value}" for state in State if state in ended)
    return f"[{count:>{len(str(total))}}/{total}] {listed}".rstrip()


def usage(found: Mapping[str, Json]) -> str:
    """What was asked of servers: `servers: 3 requests, 1200 + 340 tokens, cost 0.0012`."""
    cost = found.get("cost")
    price = f", cost {cost:.8f}".rstrip("0").rstrip(".") if isinstance(cost, int | float) else ""
    requests = "1 request" if found.get("requests") == 1 else f"{found.get('requests')} requests"
    return (
        f"servers: {requests}, {found.get('prompt_tokens')} + {found.get('generated_tokens')} tokens{price}"
    )


def last_line(report: BuildReport) -> str:
    """The last line of a build.  Scripts read it: the words and their order never change."""
    counts = report.counts
    total = counts.pop("total")
    cancelled = counts.pop("cancelled")
    idle = not (counts["ran"] or counts["failed"] or counts["poisoned"] or cancelled or report.restored)
    if idle and report.ok:
        return up_to_date(total, report.wall_s)
    listed = ", ".join(f"{number} {state}" for state, number in counts.items())
    if cancelled:
        listed += f", {cancelled} cancelled"
    return f"{total} targets: {listed} in {report.wall_s:.2f} s"


# ---------------------------------------------------------------- colour

_SGR = {"red": "1;31", "yellow": "33", "green": "32", "blue": "34", "dim": "2", "bold": "1"}


def plain(text: str, style: str) -> str:
    """No colour."""
    return text


def ansi(text: str, style: str) -> str:
    """Colour by escape sequences; `text` has been through `printable`."""
    return f"\x1b[{_SGR[style]}m{text}\x1b[0m"


# ---------------------------------------------------------------- GitHub Actions


def github_error(message: str, *, file: str | None, line: int | None, title: str) -> str:
    """A workflow command that marks a line of a file; every part escaped as the runner reads it."""
    data = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    parts = {"file": file, "line": str(line) if line else None, "title": title}
    listed = ",".join(f"{name}={_property(value)}" for name, value in parts.items() if value)
    return f"::error {listed}::{data}"


def _property(value: str) -> str:
    for raw, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C")):
        value = value.replace(raw, code)
    return value


def github_inert(text: str) -> str:
    """`text` without what the runner takes for a command: `::` at the start of a line, `##[` anywhere."""
    return re.sub(r"^(\s*):(?=:)", r"\1\\:", text, flags=re.M).replace("##[", "#\\#[")
