"""Training, and what belongs to it: the only room that is built on torch (extra: tune).

``laplm.tune(...)`` is ``laplm.tune.tuning.tune(...)``.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Tune(types.ModuleType):
    """A module that can be called, so that ``laplm.tune(data, model, out)`` tunes."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from laplm.tune.tuning import tune

        return tune(*args, **options)


sys.modules[__name__].__class__ = _Tune
