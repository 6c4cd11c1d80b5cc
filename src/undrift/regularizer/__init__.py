r"""Bootstrap regularizers on the cumulative error.

To a training loss they add

.. math:: \lambda \, w_t \, \mathrm{MMD}^2\bigl(K_{t+1} \cdots K_s \, p,\; q_t\bigr),

the discrepancy between states that the model made and forward draws at the same step. The variants
differ in where the states come from and in how far the gradient goes back:

==============  ============================  ====================  ================================
variant         states                        gradient              estimator
==============  ============================  ====================  ================================
``official``    1 to L denoising steps from   through all of them   V, un-averaged kernels, pooled
                q, never to t = 0                                   bandwidth
``full``        L denoising steps from q      through all of them   U
``truncated``   L denoising steps from q      last step only        U
``persistent``  chains from the prior on      last step only        U
==============  ============================  ====================  ================================

Forward draws cost no network call and their own kernel block has no gradient: take many of them;
that block is left out of the loss.

References:
    | On Error Propagation of Diffusion Models (Li & van der Schaar, 2024)
"""
