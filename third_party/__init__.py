"""Converters of weights that others published into the zoo's networks; nobody else's code."""
