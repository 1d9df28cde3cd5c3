"""audience_sync tells Tray.io workflows who entered or left an audience.

The packages stand in the order in which data flows, and each imports only what lies before it:

    config → computations → snapshot → diff → outbox → delivery → relay → sync → scheduler → web → cli

`state` (the tables of the state database) and `database` (engines) lie below all of them.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("audience-sync")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
