"""A run on disk and in a tracker: its folder, record, checkpoints, lock and states."""
