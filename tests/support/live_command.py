"""The command line of live.py."""

import sys

from tests.support import ROOT


def command(*arguments, no_display=True):
    extra = ["--no-display"] if no_display else []
    return [sys.executable, str(ROOT / "live.py"), *map(str, arguments), *extra]
