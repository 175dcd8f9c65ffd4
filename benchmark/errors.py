"""The few kinds of error a user can meet. Every message says what is wrong, where, and how to mend it."""

from typing import ClassVar


class BenchmarkError(Exception):
    """Base of all errors that the harness raises on purpose."""

    exit_code: ClassVar[int] = 2
    """What a command ends with."""


class BadInput(BenchmarkError):
    """The user's command, file or plug-in cannot be used as given (exit code 2)."""


class MissingWeights(BadInput):
    """Pretrained weights were asked for and are not on this machine."""


class Leakage(BenchmarkError):
    """The parts of the split share patients or pictures, and nobody said that this is meant (exit code 1)."""

    exit_code = 1


class UnsupportedModality(BenchmarkError):
    """A model was asked to encode something it has no encoder for."""


class BrokenModel(BenchmarkError):
    """A model or augmentation broke its contract: another shape, type or number than promised, values not finite."""


class OutOfStep(RuntimeError):
    """One of several processes that train together failed where the others went on: none of them can do more."""


class TrainingDiverged(BenchmarkError):
    """The training loss stopped being finite; the unit is recorded as failed and the run goes on."""
