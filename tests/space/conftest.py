"""Let tests import the modules of the Space, after those of all packages."""

import sys

from tests.support.running_space import SPACE

sys.path.append(str(SPACE))
