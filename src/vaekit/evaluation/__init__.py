"""Numbers about a trained model, unweighted and the same for every model."""
