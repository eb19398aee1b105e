"""Time to the report's quality of the VQ-VAE: vaekit's default network needs at most a twentieth of the time that pythae needs.

As `quality`, for the VQ-VAE at the report's codes.
"""

from benchmarks import quality


def run(argv):
    return quality.run(argv, "vqvae")
