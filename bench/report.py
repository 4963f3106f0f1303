"""From samples to results.json, and from results.json to results.md: medians, ratios, growth.

results.json holds what was measured; results.md and growth.svg are made of it whole, so a run replaces its
own section and no other.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.loads import LOADS
from bench.measure import Sample

BASE = "ninja"  # what all are compared with


@dataclass(frozen=True)
class Row:
    """One load of one tool on one graph."""

    shape: str
    size: int  # as asked for
    targets: int
    load: str
    tool: str
    samples: list[Sample]

    @property
    def seconds(self) -> float:
        return statistics.median(s.seconds for s in self.samples)

    @property
    def cpu_s(self) -> float:
        return statistics.median(s.cpu_s for s in self.samples)

    @property
    def peak_mb(self) -> float:
        return max(s.peak_mb for s in self.samples)

    @property
    def sum_mb(self) -> float | None:
        return max((s.sum_mb for s in self.samples if s.sum_mb is not None), default=None)

    @property
    def per_target_us(self) -> float:
        return self.seconds / self.targets * 1e6


@dataclass
class Section:
    """What one run of the bench measured."""

    title: str
    command: str
    machine: list[str]
    notes: list[str] = field(default_factory=list)  # what was left out, stopped, failed, set up
    growth: bool = False  # its sizes are shown side by side as well
    rows: list[Row] = field(default_factory=list)


# ---------------------------------------------------------------- tables


def ratio(row: Row, rows: Iterable[Row]) -> float | None:
    """Median against the median of the tool compared with, for the same load of the same graph."""
    for other in rows:
        if (other.tool, other.shape, other.size, other.load) == (BASE, row.shape, row.size, row.load):
            return row.seconds / other.seconds
    return None


def table(rows: list[Row]) -> str:
    """One graph: a row for each load and tool."""
    lines = [
        f"| load | tool | seconds | from .. to | against {BASE} | CPU s | largest process MB | all MB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda r: LOADS.index(r.load)):  # stable: tools stay in their order
        against = ratio(row, rows)
        wall = [s.seconds for s in row.samples]
        lines.append(
            f"| {row.load} | {row.tool} | {digits(row.seconds)} | {digits(min(wall))} .. {digits(max(wall))} "
            f"| {digits(against)} | {digits(row.cpu_s)} | {row.peak_mb:.0f} | "
            f"{'' if row.sum_mb is None else f'{row.sum_mb:.0f}'} |"
        )
    return "\n".join(lines)


def growth_table(rows: list[Row]) -> str:
    """One shape: a row for each load and size, the tools side by side."""
    tools = list(dict.fromkeys(r.tool for r in rows))
    lines = [
        "| load | targets | " + " | ".join(f"{t} s | µs a target | MB" for t in tools) + " |",
        "|---|---:|" + "---:|" * (3 * len(tools)),
    ]
    for load in LOADS:
        for size in sorted({r.size for r in rows if r.load == load}):
            found = {r.tool: r for r in rows if (r.load, r.size) == (load, size)}
            cells = [
                f"{digits(r.seconds)} | {digits(r.per_target_us)} | {r.peak_mb:.0f}" if r else " |  | "
                for r in map(found.get, tools)
            ]
            lines.append(f"| {load} | {size:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def digits(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    places = 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:.{places}f}"


# ---------------------------------------------------------------- files


def load(path: Path) -> dict[str, Section]:
    if not path.is_file():
        return {}
    sections: dict[str, Section] = {}
    for name, raw in json.loads(path.read_text()).items():
        raw["rows"] = [_row(r) for r in raw["rows"]]
        sections[name] = Section(**raw)
    return sections


def _row(raw: dict[str, Any]) -> Row:
    columns = raw.pop("samples")
    return Row(**raw, samples=[Sample(*values) for values in columns])


def save(path: Path, sections: dict[str, Section]) -> None:
    raw = {name: asdict(section) for name, section in sorted(sections.items())}
    for section in raw.values():
        for row in section["rows"]:
            row["samples"] = [[_short(v) for v in s.values()] for s in row["samples"]]
    aside = path.with_suffix(".new")
    aside.write_text(
        "{\n" + ",\n".join(f"{json.dumps(name)}: {_lines(s)}" for name, s in raw.items()) + "\n}\n"
    )
    aside.replace(path)


def _lines(section: dict[str, Any]) -> str:
    """JSON with a line for each row, so that a change of the file can be read."""
    rows = ",\n  ".join(json.dumps(row) for row in section.pop("rows"))
    return f'{json.dumps(section, indent=1)[:-2]},\n "rows": [\n  {rows}\n ]\n}}'


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


HEAD = """\
# What the bench measured

Written by `make bench` and `make bench-large` from `results.json`; [README.md](README.md) says what the loads
and the columns are.  Each section is one run, in which the tools took turns; figures of different sections
were taken at different times.
"""


def markdown(sections: dict[str, Section]) -> str:
    parts = [HEAD]
    for section in sections.values():
        parts.append(f"## {section.title}\n")
        parts.append(f"`{section.command}`\n")
        parts.append("\n".join(f"- {line}" for line in section.machine) + "\n")
        if section.notes:
            parts.append("\n".join(f"- Note: {line}" for line in section.notes) + "\n")
        if section.growth and section.rows:
            parts.append("![time and memory by number of targets](growth.svg)\n")
            parts.append(growth_table(section.rows) + "\n")
        for shape, size in dict.fromkeys((r.shape, r.size) for r in section.rows):
            rows = [r for r in section.rows if (r.shape, r.size) == (shape, size)]
            parts.append(f"### {shape}, {rows[0].targets:,} targets\n\n{table(rows)}\n")
    return "\n".join(parts)


# ---------------------------------------------------------------- the machine


def host(scratch: Path) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {os.cpu_count()} CPUs, {memory:.0f} GiB; {platform.system()} {platform.release()}; "
        f"file system {_file_system(scratch)}; load average before the run {os.getloadavg()[0]:.1f}"
    )


def machine(scratch: Path, jobs: int, versions: dict[str, str], floor_mb: float) -> list[str]:
    return [
        host(scratch),
        f"-j{jobs}; {platform.python_implementation()} {platform.python_version()}; "
        + ", ".join(f"{tool} {version}" for tool, version in versions.items()),
        f"no process is shown with less than {floor_mb:.0f} MB, which is what the measuring itself takes",
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    done = subprocess.run(["df", "-PT", str(folder)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    return lines[1].split()[1] if done.returncode == 0 and len(lines) > 1 else "unknown"
