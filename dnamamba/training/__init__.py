"""The training loop, its objectives, schedules and checkpoints."""
