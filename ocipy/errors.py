"""The whole exception tree. Imports nothing: it is loaded by every command.

str(error) is one line that a human can act on; the cli puts "ocipy: " before it. Errors that come from the kernel keep
``errno``; errors that come from config.json keep ``pointer``, the JSON pointer of the property at fault.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class OcipyError(Exception):
    """Base of all errors that a command reports as one line; ``exit_code`` is the status that the command ends with."""

    exit_code = 1
    errno = 0
    pointer = ""
    index = -1  # of the step of a plan that init could not execute
    more: Sequence[str] = ()  # further errors of the same command, one line each


class UsageError(OcipyError):
    """The command line is wrong."""


class ConfigError(OcipyError):
    """config.json (or process.json, resources.json) breaks the specification or our limits.

    ``pointer`` is a JSON pointer ("/mounts/3/source"), ``label`` what a person calls it ("mounts[3] /data"), derived from the
    pointer when empty; ``reason`` says what is wrong and what to do. ``source`` is the file's path, ``line`` and ``column``
    (1-based, 0: unknown) the place in it. ``more`` are further errors of the same file, one line each.
    """

    def __init__(self, pointer: str, reason: str, *, label: str = "", source: str = "") -> None:
        self.pointer, self.reason, self.label, self.source = pointer, reason, label, source
        self.line = self.column = 0
        self.more: list[str] = []
        super().__init__(pointer, reason)

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}:{self.column}: " if self.line else f"{self.source}: " if self.source else ""
        label = self.label or label_of(self.pointer)
        name = f"{label} ({self.pointer}): " if self.pointer else ""
        return f"{place}{name}{self.reason}" + (f" (and {len(self.more)} more)" if self.more else "")


class SeveralErrors(OcipyError):
    """What failed for several containers of one command: the first, and how many more; ``more`` has those."""

    def __init__(self, errors: list[OcipyError]) -> None:
        self.errno, self.pointer = errors[0].errno, errors[0].pointer
        self.more = [str(error) for error in errors[1:]]
        super().__init__(f"{errors[0]} (and {len(self.more)} more)")


class StateError(OcipyError):
    """The container is absent, exists already, or is in a state that does not allow the command."""


class NotFoundError(StateError):
    """No container of this id (callers match on "does not exist")."""

    def __init__(self, container_id: str) -> None:
        self.container_id = container_id
        super().__init__(f'container "{container_id}" does not exist')


class NotRunningError(StateError):
    """The container has no live process (callers match on "container not running")."""

    def __init__(self, container_id: str, what: str = "") -> None:
        self.container_id = container_id
        super().__init__(f'{what + ": " if what else ""}container not running: "{container_id}"')


class StepError(OcipyError):
    """A kernel step of the plan failed: ``step`` is its short description, ``call`` the system call, ``detail`` our advice."""

    def __init__(self, errno: int, step: str, call: str = "", pointer: str = "", detail: str = "") -> None:
        self.errno, self.step, self.call, self.pointer, self.detail = errno, step, call, pointer, detail
        super().__init__(errno, step)

    def __str__(self) -> str:
        where = f" ({self.pointer})" if self.pointer else ""
        call = f"{self.call}: " if self.call else ""
        text = f"{call}{strerror(self.errno)}" if self.errno else ""
        detail = f"; {self.detail}" if text and self.detail else self.detail
        return f"{self.step}{where}: {text}{detail}"


class MountError(StepError):
    """A mount, a mask, a root or a device node could not be made."""


class NamespaceError(StepError):
    """A namespace could not be made, joined or mapped."""


class CgroupError(StepError):
    """A cgroup could not be made, set, entered or removed."""


class CapabilityError(StepError):
    """Credentials could not be changed."""


class SeccompError(StepError):
    """A filter could not be compiled or loaded."""


class HookError(StepError):
    """A hook failed, timed out or could not be executed."""


class ExecError(StepError):
    """The program of the container could not be found or executed."""

    def __str__(self) -> str:
        # Engines look for these words: see the contract with callers in docs/architecture.md.
        return self.detail or super().__str__()


def strerror(errno: int) -> str:
    """The words that runc has for an errno: lower case, as callers compare them."""
    import os

    text = os.strerror(errno)
    return text[0].lower() + text[1:]


def label_of(pointer: str) -> str:
    """'/linux/namespaces/2/path' -> 'linux.namespaces[2].path'."""
    label = ""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        label += f"[{name}]" if name.isdigit() else f".{name}" if label else name
    return label
