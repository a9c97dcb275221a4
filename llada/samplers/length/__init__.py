"""Decoding whose result has no length that is fixed beforehand."""
