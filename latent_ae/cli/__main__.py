"""`python -m latent_ae.cli ...`."""

from latent_ae.cli import program
from latent_ae.process import leave

leave(program())
