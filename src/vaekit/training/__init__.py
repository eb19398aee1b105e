"""From a module, an objective and data to trained weights: the one loop, and the run folder it can go on from."""
