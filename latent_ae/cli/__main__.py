"""`python -m latent_ae.cli ...`."""

import sys

from latent_ae.cli import main

sys.exit(main())
