"""kill --regex and delete --regex: one verb for every container whose id matches. Cold: imports re."""

from __future__ import annotations

from ocipy.errors import NotFoundError, OcipyError, SeveralErrors, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ocipy.container.store import Entry, Store


def matching_ids(ids: list[str], pattern: str) -> list[str]:
    """Those that ``pattern`` is found in, anywhere, as crun has it: ^ and $ bind it to the ends. Raises UsageError."""
    import re
    import warnings

    if not pattern:
        raise UsageError('an empty regular expression matches every container: write "." to mean that')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # standard error is for our own words
            expression = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f'"{pattern}" is not a regular expression: {error}') from None
    return [name for name in ids if expression.search(name)]


def for_each(store: Store, pattern: str, act: Callable[[Entry], None]) -> None:
    """``act`` on each container that matches, whatever becomes of the others; none is no error, and so is one that goes meanwhile.

    Raises the one error that there was, or SeveralErrors.
    """
    errors: list[OcipyError] = []
    for container_id in matching_ids(store.ids(), pattern):
        try:
            entry = store.open(container_id)
            try:
                act(entry)
            finally:
                entry.close()
        except NotFoundError:
            continue
        except OcipyError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralErrors(errors)
