r"""Training methods: the plain loss, and published methods against exposure bias.

======================  ===========================================================================
:class:`Plain`          the mean squared error of what the network predicts
:class:`InputPerturbation`  input noisier than its target
:class:`MixFlow`        input of a noisier time than its label
:class:`Dream`          the noise of input and target contains the network's own error
:class:`ScheduledSampling`  input made by the chain's own denoising steps
:class:`ConsistentDiffusion`  plus: estimates of the data agree along the reverse process
:class:`ScoreFokkerPlanck`  plus: the score obeys the Fokker–Planck equation
======================  ===========================================================================

Each is called as ``objective(model, x_0)`` in any training loop and returns a scalar. All of them
draw steps and noise of the main term in the same way; additional draws come from a separate random
stream. Networks may predict the noise, the data or v.
"""
