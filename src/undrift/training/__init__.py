r"""The training loop, on Accelerate: main term, regularizer, averaged weights, checkpoints.

The main term is the mean squared error of what the network predicts, at steps drawn uniformly
from 1 to T. Batches and noise of a step depend only on the seed and the step, never on the
regularizer, which has a random stream of its own: runs that differ in the regularizer alone see
the same data and noise. A run that was stopped goes on exactly where its last checkpoint is.
"""
