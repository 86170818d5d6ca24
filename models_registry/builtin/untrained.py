"""Write the built-in model with random weights: `python -m models_registry.builtin.untrained OUT_DIR [--seed N]`."""

import argparse
import shutil
import tempfile
from pathlib import Path

from models_registry.builtin.architecture import build_parts, save_pipeline


def ensure_untrained(folder: Path) -> None:
    """Make sure that the folder holds the untrained model; it appears whole or not at all, however many try at once."""
    if (folder / "model_index.json").is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_pipeline(build_parts(seed=0), draft)
        draft.rename(folder)
    except OSError:
        if not (folder / "model_index.json").is_file():  # else another process was first
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def main(argv: list[str] | None = None) -> None:
    """Write a complete pipeline folder whose weights depend on the seed alone; it loads, but draws only noise."""
    parser = argparse.ArgumentParser(
        prog="python -m models_registry.builtin.untrained",
        description="Write the built-in model with random weights: right in layout and size, and it draws only noise.",
    )
    parser.add_argument("out_dir", type=Path, help="folder to write; made if missing")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights (default: 0)")
    arguments = parser.parse_args(argv)
    save_pipeline(build_parts(seed=arguments.seed), arguments.out_dir)


if __name__ == "__main__":
    main()
