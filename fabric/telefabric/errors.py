"""What Telefabric raises, split by whose fault it is.

    TelefabricError
    ├── UsageError        the caller's: a malformed setting, a value out of range        (exit code 2)
    │   └── ClosedError   the caller's: a worker that is closed already
    ├── EnvironmentProblem  the machine's: a port in use, a full disk, a missing file    (exit code 1)
    │   ├── SpoolError    the spool cannot be written or read
    │   │   └── SpoolFull  it has no room, and nothing may be dropped for it
    │   ├── StoreError    the store file cannot be opened, read or written
    │   │   └── StoreReplaced  it was removed or replaced while it was open
    │   ├── PartFailed    a child process ended before it was ready, and has told why by itself
    │   └── Unreachable   nobody answers at an address
    │       └── Foreign   something answers there, in words that are not ours
    └── WireError         the peer's: bytes that are not ours, damaged, or of another version

Every message is one sentence with the figure and the remedy; the CLI prints it as it stands.
"""

from __future__ import annotations


class TelefabricError(Exception):
    """Root of all errors of this package."""

    exit_code = 1


class UsageError(TelefabricError):
    """The caller asked for something that cannot be."""

    exit_code = 2


class ClosedError(UsageError):
    """The object was closed before."""


class EnvironmentProblem(TelefabricError):
    """The machine does not give what is needed."""


class SpoolError(EnvironmentProblem):
    """The spool cannot be written or read."""


class SpoolFull(SpoolError):
    """The spool has no room for an event, and its owner wants nothing dropped; the event was not taken."""


class StoreError(EnvironmentProblem):
    """The store file cannot be opened, read or written."""


class StoreReplaced(StoreError):
    """The store file was removed or replaced while it was open."""


class PartFailed(EnvironmentProblem):
    """A child process ended before it was ready. It has told why on standard error, so the CLI adds nothing."""


class Unreachable(EnvironmentProblem):
    """Nobody answers at an address."""


class Foreign(Unreachable):
    """What answers at an address does not speak this version's protocol."""


class WireError(TelefabricError):
    """Bytes from outside that are not ours, damaged, or of another version. `reason` is a short word for counters.

    Where they are known: `about` is the name of the message, `field` the item of it, `stream` whose batch it was.
    """

    def __init__(self, reason: str, message: str, *, about: str = "", field: str = "", stream: bytes = b"") -> None:
        super().__init__(message)
        self.reason = reason
        self.about = about
        self.field = field
        self.stream = stream
