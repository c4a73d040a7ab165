"""The one exception that means "the user has to change something"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input, told in one line: what is wrong, what was expected, what to do.

    The command line prints it without a traceback and exits with code 2.
    """

    exit_code = 2


class RunFailedError(Exception):
    """A run broke off inside the host; the message says with what, and where the host's console output lies."""

    exit_code = 1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known word, or an empty string."""
    match = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f" Did you mean '{match[0]}'?" if match else ""
