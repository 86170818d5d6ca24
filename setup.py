"""What `pip install .` installs beside this project: the pins of requirements*.txt, a whole installation's."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
FILES = ("requirements-web.txt", "requirements-worker.txt", "requirements.txt")

setup(
    install_requires=[
        line.partition("  #")[0].strip()
        for file in FILES
        for line in (HERE / file).read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(("#", "-r"))
    ]
)
