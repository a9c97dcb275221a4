"""Models as files: the Trainer's checkpoints, and the layouts of released ones."""
