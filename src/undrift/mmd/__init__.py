"""Maximum mean discrepancy: kernels, estimates with error bars, tests, and what it says of KL."""
