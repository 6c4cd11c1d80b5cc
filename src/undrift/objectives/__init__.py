r"""Training methods: one interface, the plain loss and the published remedies for exposure bias.

======================  ===========================================================================
:class:`Plain`          the mean squared error of what the network predicts
:class:`InputPerturbation`  input noisier than its target says
:class:`MixFlow`        input of a noisier time than the network is told
:class:`Dream`          input and target moved by the network's own error
:class:`ScheduledSampling`  input made by the chain's own denoising steps
:class:`ConsistentDiffusion`  plus: estimates of the data agree along the reverse process
:class:`ScoreFokkerPlanck`  plus: the score obeys the Fokker–Planck equation
======================  ===========================================================================

Each is called as ``objective(model, x_0)`` in anybody's training loop and returns a scalar. All of
them draw steps and noise of the main term in the same way; what a method draws beyond them has a
stream of its own. Networks may predict the noise, the data or v.
"""
