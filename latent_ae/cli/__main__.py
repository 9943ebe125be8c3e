"""`python -m latent_ae.cli ...`."""

import sys

from latent_ae.cli import program

sys.exit(program())
