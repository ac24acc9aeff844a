"""`telefabric doctor`: each check is a look at the machine and a verdict.

A verdict is a function of what was seen and does no input or output. Nothing is changed, and nothing is written but an
empty file that is gone at once; at the broker it is one more live subscriber, of no run, for a second or three.
"""

from telefabric.cli.doctor.command import doctor

__all__ = ["doctor"]
