"""Models on which everything is known exactly, and the paper's claims judged on them."""
