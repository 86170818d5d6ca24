"""Settings of the test suite: the same, on embedded servers in a throw-away data folder (see `tests/conftest.py`)."""

import os
import shutil
import tempfile

# Always a folder of its own, never the one of a service that happens to be configured in this shell.
os.environ["DATA_DIR"] = _data_dir = tempfile.mkdtemp(prefix="imagegen-tests-")
os.environ.setdefault("SECRET_KEY", "only-for-tests-" + "0123456789" * 4)
# The folder of the process that started the run: its others begin with copies of one database, which has one password.
_run_dir = os.environ.setdefault("TESTS_RUN_DIR", _data_dir)
if _run_dir != _data_dir:
    shutil.copytree(f"{_run_dir}/secrets", f"{_data_dir}/secrets")

from imagegen_project import env  # noqa: E402 - reads what was set above
from imagegen_project.standalone import paths  # noqa: E402

paths.ensure_secrets(env.DATA_DIR)

from imagegen_project.settings import *  # noqa: E402, F403 - reads the secrets made above

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # fast; passwords are not what is tested
