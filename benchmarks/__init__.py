"""What vaekit claims, measured: `python -m benchmarks` lists the claims, `python -m benchmarks NAME` runs one.

A claim is a module here with a docstring, which is the claim, and `run(argv) -> Findings`.
"""
