"""plan BUNDLE: every step that create would do, without doing any, and without root."""

from __future__ import annotations

from ocipy.cli.main import write
from ocipy.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation


def run(invocation: Invocation) -> int:
    """Print the plan for this host, as text or as a JSON list with one object per step."""
    import os

    from ocipy.cli.options import cgroup_manager
    from ocipy.config.load import load_config
    from ocipy.linux.assemble import assemble
    from ocipy.linux.options import Options
    from ocipy.linux.host import read_host
    from ocipy.plan import render
    from ocipy.warning import check, warn

    style = invocation["format"]
    if style not in ("text", "json"):
        raise UsageError(f"invalid format option: {style} (text or json)")
    if invocation.args and invocation["bundle"]:
        raise UsageError("the bundle is given twice: as an argument and with --bundle")
    bundle = os.path.abspath(invocation.args[0] if invocation.args else invocation["bundle"] or ".")
    config, _ = load_config(bundle)
    options = Options(os.path.basename(bundle) or "container", bundle)
    options.no_pivot, options.no_new_keyring = invocation["no-pivot"], invocation["no-new-keyring"]
    options.preserve_fds, options.cgroup_manager = invocation["preserve-fds"], cgroup_manager(invocation)
    assembled = assemble(config, read_host(), options)
    for text in assembled.warnings:
        warn(text)
    check()
    if style == "json":
        import json

        write(json.dumps(render.as_objects(assembled.steps), indent=2) + "\n")
    else:
        write(render.as_text(assembled.steps))
    return 0
