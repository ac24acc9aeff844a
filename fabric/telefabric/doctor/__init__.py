"""Finds what is wrong with this machine or its broker: each check is a look (`look_…`), and a verdict (`judge_…`).

A verdict is a function of what was seen and does no input or output; its sentences are in `sayings.toml`. Nothing is
changed, and nothing is written but an empty file that is gone at once; at the broker it is one more live subscriber,
of no run, for a second or three.
"""
