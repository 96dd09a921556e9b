"""Methods of one object, replaced while a reduction is attached."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from framefusion.hf import graphs


def undo_all(undo: list[Callable[[], None]]) -> None:
    """Call all that undoes something, last one first; an interrupt comes out when that is done.

    Args:
        undo: emptied. What an interrupt came into is called again.
    """
    interrupt: KeyboardInterrupt | None = None
    while undo:
        try:
            undo[-1]()
            undo.pop()
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def replace(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
    """Put ``make(method)`` in the place of a method of one object; nothing where it has none.

    Returns:
        the undo, after which the method does what it did, also where somebody else has wrapped ours meanwhile.
    """
    original = getattr(owner, name, None)
    if original is None:
        return lambda: None
    own, changed, attached = vars(owner).get(name), make(original), True

    @wraps(original)
    @graphs.inlined_only
    def method(*args: Any, **kwargs: Any) -> Any:
        return changed(*args, **kwargs) if attached else original(*args, **kwargs)

    def undo() -> None:
        nonlocal attached
        attached = False
        if vars(owner).get(name) is not method:
            return
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)

    setattr(owner, name, method)
    return undo
