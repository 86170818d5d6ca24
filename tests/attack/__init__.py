"""Attacks on a running service of its own, over loopback and bounded: nothing that is sent may stop it.

`python -m tests.attack` runs all and judges times too; `test_attack.py` beside it is the short form for the suite.
"""
