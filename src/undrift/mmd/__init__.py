"""Maximum mean discrepancy: kernels, estimates, tests, and bounds on the KL divergence."""
