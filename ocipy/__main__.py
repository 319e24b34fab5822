"""``python -m ocipy``: what the launcher starts, without the launcher's isolation. For development."""

from __future__ import annotations

import sys

from ocipy.cli.boot import boot

boot(sys.argv[1:])
