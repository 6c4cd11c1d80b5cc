"""The error of a chain: :func:`~undrift.measurement.measure.measure` and its profile."""
