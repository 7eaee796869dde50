"""`python -m kernomics`."""

import sys

from kernomics.cli import main

sys.exit(main())
