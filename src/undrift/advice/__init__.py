"""Which solver, time grid and remedy are best for a model at a number of network calls."""
