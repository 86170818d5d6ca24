"""What `pip install .` installs beside this project: the pins of requirements*.txt, a whole installation's."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
FILES = ("requirements-web.txt", "requirements-worker.txt", "requirements.txt")


def pins(file: str) -> list[str]:
    """What a requirements file names itself."""
    lines = (HERE / file).read_text(encoding="utf-8").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line and not line.startswith(("#", "-r"))]


setup(
    install_requires=[pin for file in FILES for pin in pins(file)],
    extras_require={"otel": pins("requirements-otel.txt"), "quantized": pins("requirements-quantized.txt")},
)
