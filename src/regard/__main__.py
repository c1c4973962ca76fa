"""``python -m regard``, if the ``regard`` script is not on the path."""

import sys

from regard.cli.main import main

sys.exit(main())
