"""The explorer: a page, served on this machine, on the latent space of trained models."""
