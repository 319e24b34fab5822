"""What was measured, as a page with tables and a picture."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtimes import IDLE, VERBS, Subject
from scenes import SCENES

NATIVE = ("start", "state", "kill", "delete", "delete --force")
BY_PYTHON = ("create", "exec", "run")
LIFE = "create + start + delete"


@dataclass
class Found:
    """What is not a sample of one verb; all by the runtime's name."""

    at_once: dict[tuple[str, int], list[float]] = field(default_factory=dict)  # ms by how many
    probes: dict[str, list[float]] = field(default_factory=dict)  # a second
    alive: int = 0
    beside: dict[str, tuple[float, float]] = field(default_factory=dict)  # ms of create, alone and beside `alive` containers
    calls: dict[str, dict[str, int]] = field(default_factory=dict)  # by verb
    limits: dict[str, int | None] = field(default_factory=dict)  # bytes


# ---- numbers -------------------------------------------------------------------------------------------------------------


def times(runtime: Subject, verb: str, phase: str = "warm", scene: str = "default") -> list[float]:
    """Milliseconds, by round."""
    if verb == LIFE:
        return [sum(each) for each in zip(*(times(runtime, part, phase, scene) for part in LIFE.split(" + ")), strict=False)]
    return [sample.ms for sample in runtime.samples.get((scene, phase, verb), [])]


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=False)]


def spread(each: list[float]) -> str:
    """Median, and between which values the middle half is."""
    if len(each) < 2:
        return "-"
    low, middle, high = statistics.quantiles(each, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, columns aligned."""
    every = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([cells[0].ljust(widths[0]), *numbers]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(every[0]), rule, *(line(row) for row in every[1:])])


# ---- tables ----------------------------------------------------------------------------------------------------------------


def time_table(runtimes: list[Subject], phase: str, scene: str, verbs: Sequence[str]) -> str:
    others = runtimes[1:] if runtimes[0].name == "ocipy" else []
    head = ["verb", *(f"{r.name}, ms" for r in runtimes), *(f"ocipy / {r.name}" for r in others)]
    rows = []
    for verb in verbs:
        row = [f"`{verb}`" if verb in VERBS else verb]
        for runtime in runtimes:
            found = times(runtime, verb, phase, scene)
            row.append(f"{statistics.median(found):.1f} (min {min(found):.1f})" if found else "-")
        row += [spread(ratios(times(runtimes[0], verb, phase, scene), times(r, verb, phase, scene))) for r in others]
        rows.append(row)
    return table(head, rows)


def scene_tables(runtimes: list[Subject]) -> str:
    parts = []
    for scene in SCENES[1:]:
        if any(times(runtime, "create", scene=scene.name) for runtime in runtimes):
            verbs = ("create", "start", "exec", "delete", LIFE, "run")
            parts.append(f"### {scene.name}: {scene.text}\n\n{time_table(runtimes, 'warm', scene.name, verbs)}")
    return "\n\n".join(parts)


def peak(runtime: Subject, verbs: Sequence[str]) -> float:
    """MiB."""
    each = [samples for (scene, _, verb), samples in runtime.samples.items() if scene == "default" and verb in verbs]
    return max((sample.peak for samples in each for sample in samples), default=0) / 1024


def memory_table(runtimes: list[Subject], found: Found) -> str:
    def row(name: str, cell: Callable[[Subject], str]) -> list[str]:
        return [name, *(cell(runtime) for runtime in runtimes)]

    def faults(runtime: Subject, verb: str) -> str:
        each = [sample.faults for sample in runtime.samples.get(("default", "warm", verb), [])]
        return f"{statistics.median(each):.0f}" if each else "-"

    def charged(runtime: Subject, scene: str) -> str:
        each = runtime.charged.get(scene)
        return f"{statistics.median(each) / 1024:.0f}" if each else "-"

    rows = [row(f"peak of `{verb}`, MiB", lambda r, v=verb: f"{peak(r, [v]):.1f}") for verb in VERBS]  # type: ignore[misc]
    rows += [row(f"page faults of `{verb}`", lambda r, v=verb: faults(r, v)) for verb in ("state", *BY_PYTHON)]  # type: ignore[misc]
    for verb in ("state", "delete --force", "exec", "run"):
        rows.append(row(f"system calls of `{verb}`", lambda r, v=verb: str(found.calls.get(r.name, {}).get(v, "-"))))  # type: ignore[misc]
    rows += [row(f"charged to the container ({s.name}), KiB", lambda r, s=s: charged(r, s.name)) for s in SCENES]  # type: ignore[misc]
    rows.append(row("smallest limit, KiB", lambda r: str((found.limits.get(r.name) or 0) >> 10 or "-")))
    return table(["", *(r.name for r in runtimes)], rows)


def crowd_table(runtimes: list[Subject], found: Found) -> str:
    rows = []
    for count in sorted({count for _, count in found.at_once}):
        each = [found.at_once.get((r.name, count), []) for r in runtimes]
        rows.append([f"{count} `run` at once, ms for all", *(f"{statistics.median(ms):.0f}" if ms else "-" for ms in each)])
    probes = [found.probes.get(r.name, []) for r in runtimes]
    rows.append(["`exec` on one core, a second", *(f"{statistics.median(rate):.0f}" if rate else "-" for rate in probes)])
    for name, which in ("`create`, alone, ms", 0), (f"`create`, {found.alive} containers alive, ms", 1):
        rows.append([name, *(f"{found.beside[r.name][which]:.1f}" if r.name in found.beside else "-" for r in runtimes)])
    return table(["", *(r.name for r in runtimes)], rows)


# ---- targets ---------------------------------------------------------------------------------------------------------------

# What, phase, compared with, what must be, what is hoped for; ratios of times.
TARGETS: list[tuple[str, str, str, float | None, float | None]] = [
    ("create", "warm", "runc", 1.0, 0.7),
    ("create", "warm", "crun", None, 1.6),
    ("create", "cold", "runc", 0.6, None),
    ("create", "cold", "crun", None, 0.8),
    *((verb, "warm", "runc", 0.25, None) for verb in ("start", "state", "kill")),
    *((verb, "warm", "crun", 0.35, 0.2) for verb in ("start", "state", "kill")),
    ("delete", "warm", "runc", 0.35, None),
    ("delete", "warm", "crun", 0.45, 0.35),
    ("delete --force", "warm", "runc", 0.1, 0.05),
    (LIFE, "warm", "runc", 0.7, None),
    (LIFE, "warm", "crun", None, 1.0),
    ("exec", "warm", "runc", 0.9, 0.6),
    ("run", "warm", "runc", 1.0, 0.7),
]


def target_table(runtimes: list[Subject], found: Found) -> str:
    """Each target, what was found, and whether it was met."""
    named = {runtime.name: runtime for runtime in runtimes}
    ours, rows = named.get("ocipy"), []

    def add(what: str, value: float | None, must: float | None, goal: float | None, form: str) -> None:
        if value is None:
            return
        words = [
            word + ("missed" if value > bound else "met") for word, bound in (("", must), ("goal ", goal)) if bound is not None
        ]
        bounds = ["" if bound is None else form.format(bound) for bound in (must, goal)]
        rows.append([what, *bounds, form.format(value), ", ".join(words)])

    for verb, phase, other, must, goal in TARGETS:
        if ours and other in named and (each := ratios(times(ours, verb, phase), times(named[other], verb, phase))):
            add(f"{verb}, {phase}, / {other}", statistics.median(each), must, goal, "{:.2f}")
    if ours and "runc" in named:
        add("peak memory of create, exec, run, / runc", peak(ours, BY_PYTHON) / peak(named["runc"], BY_PYTHON), 1.0, None, "{:.2f}")
    if ours:
        add("peak memory of start, state, kill, delete, MiB", peak(ours, NATIVE), 1.0, None, "{:.1f}")
        limit = found.limits.get("ocipy")
        add("smallest limit, KiB", limit / 1024 if limit else None, 256, 200, "{:.0f}")
    if "ocipy" in found.beside:
        alone, beside = found.beside["ocipy"]
        add(f"create with {found.alive} containers alive, / alone", beside / alone, 1.1, None, "{:.2f}")
    return table(["what", "must", "goal", "found", ""], rows)


# ---- the page ----------------------------------------------------------------------------------------------------------------

TEXT = """# Performance

Written by `make bench`; run it on your own machine (`make bench QUICK=1` takes a minute). What the numbers come from, what was
tried, and where the floor is: [speed.md](speed.md).

Linux {kernel}, {cpus} CPUs, {cgroup}; {versions}; Python {python}; load average {load:.1f} at the start.

Each number is a fresh process. The runtimes take turns within a round; times are medians and minima, ratios are medians of the
ratios of each round, with the range of the middle half. Below 1, ocipy is faster. The `exec` and `run` are of a program that does
nothing, and include its end. {warm} warm rounds of the default container, {cold} cold ones, {other} of each other kind.

![Times of each verb](performance.svg)

## Targets

{targets}

## The default container, warm: another process joined a cgroup just before

{first}.

{warm_table}

## The default container, cold: nothing happened for {idle:.0f} ms

On cgroup v1 the first join of a cgroup then waits for the kernel, in every runtime.

{cold_table}

## Other containers, warm

{scenes}

## Many

{crowds}

## Memory and the kernel

The peak is of the largest process that a verb runs, as the kernel counts resident memory. Page faults are those of the command
and the processes that it waits for, system calls those of all its processes. What is charged to the container is the most that its
memory cgroup ever saw, its start and one exec included. The smallest limit is the `linux.resources.memory.limit` under which a
program that does nothing always runs.

{memory_table}
"""


def report(runtimes: list[Subject], found: Found, load: float) -> str:
    cgroup = "cgroup v2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "cgroup v1"
    warm, cold, other = (
        max((len(times(runtime, "create", phase, scene)) for runtime in runtimes), default=0)
        for phase, scene in (("warm", "default"), ("cold", "default"), ("warm", SCENES[-1].name))
    )
    return TEXT.format(
        kernel=".".join(platform.release().split(".")[:2]), cpus=os.cpu_count(), cgroup=cgroup,
        versions=", ".join(r.version() for r in runtimes), python=platform.python_version(), load=load,
        warm=warm, cold=cold, other=other, idle=IDLE * 1000, first=SCENES[0].text.capitalize(),
        targets=target_table(runtimes, found),
        warm_table=time_table(runtimes, "warm", "default", (*VERBS, LIFE)),
        cold_table=time_table(runtimes, "cold", "default", (*VERBS, LIFE)),
        scenes=scene_tables(runtimes), crowds=crowd_table(runtimes, found), memory_table=memory_table(runtimes, found),
    )  # fmt: skip


def draw(runtimes: list[Subject], found: Found, path: Path) -> None:
    """A picture: the spread of each verb's time, and of many at once, by runtime."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("matplotlib is not here: no picture", file=sys.stderr)
        return
    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "ocipy", "font.size": 8}
    import matplotlib.pyplot as plt

    colours = dict(zip(("ocipy", "runc", "crun"), ("tab:blue", "tab:orange", "tab:green"), strict=True))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), gridspec_kw={"width_ratios": [3, 1]}, layout="constrained")
    for place, runtime in enumerate(runtimes):
        data = [times(runtime, verb) or [float("nan")] for verb in VERBS]
        where = [verb + (place - 1) * 0.26 for verb in range(len(VERBS))]
        boxes = left.boxplot(data, positions=where, widths=0.2, sym="", patch_artist=True, medianprops={"color": "black"})
        for box in boxes["boxes"]:
            box.set_facecolor(colours[runtime.name])
        counts = sorted(count for name, count in found.at_once if name == runtime.name)
        each = [statistics.median(found.at_once[runtime.name, count]) / count for count in counts]
        right.plot(counts, each, marker="o", color=colours[runtime.name], label=runtime.name)
    left.set(yscale="log", ylabel="ms", title="warm, default container", xticks=range(len(VERBS)), xticklabels=VERBS)
    right.set(xscale="log", xlabel="run at once", ylabel="ms for each", title="many at once", ylim=(0, None))
    right.legend()
    figure.savefig(path, metadata={"Date": None})
