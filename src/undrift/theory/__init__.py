"""Models whose errors are known in closed form, and the paper's claims tested on them."""
