"""One step of a plan: an op, the JSON pointer of what asked for it, and the values of the op's fields."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.plan.ops import Op


class Step:
    """``origin`` is a JSON pointer into config.json, or "" where no property but the specification itself asks for it."""

    __slots__ = ("op", "origin", "values")

    def __init__(self, op: Op, origin: str = "", **values: Any) -> None:
        self.op, self.origin, self.values = op, origin, values
        if not op.names.issuperset(values):
            raise TypeError(f"{op.name} has no field {', '.join(sorted(values.keys() - op.names))}")

    def get(self, name: str) -> Any:
        """The value of a field, None where it was not given."""
        return self.values.get(name)

    def __repr__(self) -> str:
        return f"{self.op.name}({', '.join(f'{k}={v!r}' for k, v in self.values.items())})"
