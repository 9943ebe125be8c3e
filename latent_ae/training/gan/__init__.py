"""The adversarial part of training: its losses, LeCAM, the adaptive weight, and the discriminator's side of a run."""
