"""Edits of the logits before a token is drawn: constraints and memories."""
