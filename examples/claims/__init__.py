"""What is claimed of masked diffusion, as experiments against a next-token twin; one module per claim.

    python -m examples.claims.reversal --quick      (and in_context, instructions)

The kit: `twins` makes and trains the pair, `statistics` gives intervals, `report` writes the results and fails if the
direction of a claim doesn't hold.
"""
