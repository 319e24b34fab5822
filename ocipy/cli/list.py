"""list: a table, JSON, or ids."""

from __future__ import annotations

from ocipy.cli.main import write
from ocipy.config.json_text import json_text
from ocipy.container.state import report
from ocipy.container.store import Store
from ocipy.errors import NotFoundError, StateError, UsageError
from ocipy.warning import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation

_COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")


def run(invocation: Invocation) -> int:
    """Print all containers of the root; one whose record is damaged is a warning."""
    style = invocation["format"]
    if style not in ("table", "json"):
        raise UsageError(f"invalid format option: {style} (table or json)")
    store = Store(invocation["root"])
    if invocation["quiet"]:
        write("".join(f"{container_id}\n" for container_id in store.ids()))
        return 0
    reports = _reports(store)
    write(json_text(reports) + "\n" if style == "json" else _table(reports))
    return 0


def _reports(store: Store) -> list[dict[str, object]]:
    import pwd

    found = []
    for container_id in store.ids():
        try:
            entry = store.open(container_id)
            try:
                record = entry.read()
                try:
                    owner = pwd.getpwuid(record.owner_uid).pw_name
                except KeyError:
                    owner = f"#{record.owner_uid}"
                found.append(report(entry, record, owner))
            finally:
                entry.close()
        except NotFoundError:
            continue  # deleted meanwhile
        except StateError as error:
            warn(str(error))
    return found


def _table(reports: list[dict[str, object]]) -> str:
    rows = [[name.upper() for name in _COLUMNS]] + [[str(item[name]) for name in _COLUMNS] for item in reports]
    widths = [max(12, 3 + max(len(row[at]) for row in rows)) for at in range(len(_COLUMNS) - 1)] + [0]
    return "".join("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + "\n" for row in rows)
