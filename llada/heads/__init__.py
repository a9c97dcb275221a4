"""The vocabulary head's loss: cross-entropy in chunks, so that the logits of a batch never exist at once."""
