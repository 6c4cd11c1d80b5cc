r"""The training loop, on Accelerate: main term, regularizer, averaged weights, checkpoints.

The main term is the mean squared error of what the network predicts, at steps drawn uniformly
from 1 to T. Batches and noise of a step depend only on the seed and the step, never on the
regularizer, which has a separate random stream: runs that differ only in the regularizer use the
same data and noise. A run that was stopped resumes exactly from its last checkpoint.
"""
