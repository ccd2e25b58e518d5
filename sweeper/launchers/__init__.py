"""Where trials run: each launcher starts the same process on the same folder."""

from __future__ import annotations

from sweeper.launchers.ask import NoReplyError, ask
from sweeper.launchers.base import Launcher
from sweeper.launchers.local import LocalLauncher

__all__ = ["Launcher", "LocalLauncher", "NoReplyError", "ask"]
