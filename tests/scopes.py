"""Distribute test files over pytest-xdist's workers by scope: tests of one scope run on one worker, in order.

A scope is, for example, all tests that use the stack, which only one worker may start. (xdist's own groups have no
effect with pytest 9.)
"""

from collections.abc import Callable

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling


class ScopeScheduling(LoadScopeScheduling):
    """A scheduler that runs all tests of a scope on one worker. `scope_of` maps a file's name to its scope."""

    def __init__(self, config: pytest.Config, log: Producer, scope_of: Callable[[str], str]) -> None:
        super().__init__(config, log)
        self._scope_of = scope_of

    def _split_scope(self, nodeid: str) -> str:
        return self._scope_of(nodeid.partition("::")[0].rpartition("/")[2])
