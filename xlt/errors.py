"""Mistakes that a user can mend, worded for the person who will read them.

A `UserError` says in one paragraph what was asked, what was found and what to do. The command line prints it without a
traceback and exits with status 2; `debug=true` shows the traceback as well.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """What was asked cannot be done, and the message says what to do instead."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by the user or the scheduler after its state had been saved."""


def nearest(word: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of `choices` that look like `word`, best first."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    matches = get_close_matches(word.lower(), by_lower_case, n=count, cutoff=0.55)
    return [by_lower_case[match] for match in matches]


def suggest(word: str, choices: Iterable[str], noun: str) -> str:
    """The sentence that follows «no such thing»: the nearest names first, then what there is."""
    names = sorted(set(choices))
    matches = nearest(word, names)
    guess = f"Did you mean {' or '.join(matches)}? " if matches else ""
    if not names:
        return f"{guess}There are no {noun}."
    listed = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
    return f"{guess}The {noun} are: {listed}."


def explain_system_error(error: OSError) -> str | None:
    """A paragraph for the failures of a file system that a user can mend; None for all others."""
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full{where}. Free some space (`python scripts/store.py list` shows what the store holds, "
            "`python scripts/store.py prune` removes what no record needs) or point paths.outputs at another disk, "
            "then run the same command again: finished steps are kept."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return (
            f"Cannot write{where} ({error.strerror}). Point paths.outputs at a folder that you may write to, "
            "for example paths.outputs=$HOME/xlt."
        )
    return None
