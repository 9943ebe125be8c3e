"""The parts of a training run: losses, schedules, steps, checkpoints, preflight, logging."""
