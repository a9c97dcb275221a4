"""Conversations as rows of token ids."""
