"""Let tests import the modules of the Space, after those of all packages, and Gradio quickly."""

import sys

from tests.support import no_stubs  # noqa: F401 - its import is enough
from tests.support.running_space import SPACE

sys.path.append(str(SPACE))
