"""Attention: who may see whom, and the kernels that compute it."""
