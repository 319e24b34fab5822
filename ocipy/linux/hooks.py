"""Hooks as steps: who runs them and where (config.md, POSIX-platform Hooks)."""

from __future__ import annotations

from ocipy import SPEC_VERSION
from ocipy.config.json_text import json_text
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config, Hook
    from ocipy.linux.options import Options

INSIDE = {"createContainer": "creating", "startContainer": "created"}


def plan(config: Config, options: Options, kind: str) -> list[Step]:
    """Steps of one kind of hook. Those in the container's namespaces are run by init, which puts its own pid into the state."""
    steps = []
    for index, hook in enumerate(hooks_of(config, kind)):
        origin = f"/hooks/{kind}/{index}"
        args = hook.get("args") or [hook["path"]]
        values = {"path": hook["path"], "args": args, "env": hook.get("env") or [], "timeout": hook.get("timeout") or 0}
        if kind in INSIDE:
            head, tail = state_parts(config, options, INSIDE[kind])
            output = None if kind == "startContainer" else "hook output"
            steps.append(Step(ops.HOOK, origin, **values, state_head=head, state_tail=tail, output=output))
        else:
            steps.append(Step(ops.RUN_HOOK, origin, kind=kind, **values))
    return steps


def hooks_of(config: Config, kind: str) -> list[Hook]:
    """The hooks of one kind, in their order."""
    found: list[Hook] | None = (config.get("hooks") or {}).get(kind)  # type: ignore[assignment]
    return found or []


def runs_before_pivot(config: Config) -> bool:
    """Is there a hook that sees the root before it is the container's?"""
    return any(hooks_of(config, kind) for kind in ("prestart", "createRuntime", "createContainer"))


def plan_open(config: Config) -> list[Step]:
    """A file for what createContainer hooks print: it is shown when one fails."""
    if not hooks_of(config, "createContainer"):
        return []
    return [Step(ops.OPEN_HOOK_OUTPUT, "/hooks/createContainer", slot="hook output")]


def state_parts(config: Config, options: Options, status: str) -> tuple[str, str]:
    """The container's state as JSON in two parts, between which the pid belongs (runtime.md, State)."""
    state = {"ociVersion": SPEC_VERSION, "id": options.id, "status": status, "pid": 0, "bundle": options.bundle}
    if config.get("annotations"):
        state["annotations"] = config["annotations"]
    head, tail = json_text(state).split('"pid":0', 1)
    return head + '"pid":', tail
