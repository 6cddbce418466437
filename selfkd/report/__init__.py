"""The report of runs as one HTML file. The package has the name of its stage, so it is callable:
`selfkd.report(runs=[...])`."""

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from selfkd.report.build import report

        return report(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
