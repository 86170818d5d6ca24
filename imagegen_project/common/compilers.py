"""The programs that make machine code of what torch's compiler writes."""

import os
import shutil
import sys


def compiler_lacking(*, card: bool) -> str:
    """Why nothing can be compiled for a card, or for a CPU, as a sentence; "" where the program is there.

    For a CPU torch calls `CXX`, else g++ (`torch/_inductor/config.py`); for a card Triton calls `CC`, else gcc or clang
    (`triton/runtime/build.py`).
    """
    variable, usual = ("CC", ("gcc", "clang")) if card else ("CXX", ("g++",))
    if not card and sys.platform == "darwin":
        usual = ("clang++",)
    named = os.environ.get(variable)  # noqa: TID251 - as they look it up themselves
    programs = (named,) if named else usual
    if any(shutil.which(program) for program in programs):
        return ""
    language = "C" if card else "C++"
    return (
        f"There is no {language} compiler on the PATH: {' or '.join(programs)} (another one by {variable})."
    )
