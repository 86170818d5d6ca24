"""Settings of the test suite: the same, on embedded servers in a throw-away data folder (see `tests/conftest.py`)."""

import os
import tempfile

# Always a folder of its own, never the one of a service that happens to be configured in this shell.
os.environ["DATA_DIR"] = tempfile.mkdtemp(prefix="imagegen-tests-")
os.environ.setdefault("SECRET_KEY", "only-for-tests-" + "0123456789" * 4)

from imagegen_project import env
from imagegen_project.standalone import paths

paths.ensure_secrets(env.DATA_DIR)

from imagegen_project.settings import *  # noqa: E402, F403 - reads the secrets made above

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # fast; passwords are not what is tested
