"""The known traps of this nginx configuration, each as a check of a frontend that is up, whatever it runs in.

A check is a function below `trap`, in any module of this folder. `TRAPS` names for each of them the naive edit of one
file that must make it fail.
"""

import importlib
import pkgutil

from tests.nginx.checks.frame import CHECKS, TRAPS, Check, Frontend, Trap

__all__ = ["CHECKS", "TRAPS", "Check", "Frontend", "Trap"]

for module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{module.name}")
