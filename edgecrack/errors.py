"""The errors a caller can catch.

    EdgecrackError
    +-- SpecError (ValueError)         a model, size, threshold or option that cannot be
    +-- FrameError (ValueError)        an image that is not what was asked for
    +-- MissingDependency (ImportError)
    +-- ExportError                    torch to ONNX failed, or the graph does not agree with torch
    +-- CalibrationError (ValueError)  frames or ranges that cannot calibrate this graph
    +-- BuildError                     ONNX to engine failed
    +-- EngineError                    a model file that cannot be loaded or run
    |   +-- EngineMismatch             an engine of another GPU, TensorRT or CUDA
    +-- SourceError (OSError)          frames that cannot be read, results that cannot be written
    |   +-- SourceLost                 a camera that did not come back
    +-- TrainingError                  a run that went wrong
    +-- AccuracyError                  a model below the bound it was held to

A message says what was wanted, what was there and what to do. `exit_code` is what the command line ends with.
"""

# ends a message of what is missing, where pip would hide what the board has
BROUGHT_BY_JETSONS = "; on a Jetson it comes with JetPack: make the environment with --system-site-packages"


class EdgecrackError(Exception):
    """Any failure that edgecrack expects and explains; everything else is a bug."""

    exit_code = 1


class SpecError(EdgecrackError, ValueError):
    """A model name, size, threshold or option that cannot be."""


class FrameError(EdgecrackError, ValueError):
    """An image whose type, shape or content is not what was asked for."""


class MissingDependency(EdgecrackError, ImportError):
    """A library that an extra brings is not installed; the message names the extra."""


class ExportError(EdgecrackError):
    """A net could not be turned into ONNX, or into an ONNX that agrees with it."""


class CalibrationError(EdgecrackError, ValueError):
    """Frames or ranges that cannot calibrate the graph at hand."""


class BuildError(EdgecrackError):
    """An ONNX could not be built into an engine."""


class EngineError(EdgecrackError):
    """A model file that cannot be loaded or run."""


class EngineMismatch(EngineError):
    """An engine built for another GPU, TensorRT or CUDA, or one that was changed."""

    exit_code = 4


class SourceError(EdgecrackError, OSError):
    """Frames that cannot be read or results that cannot be written."""


class SourceLost(SourceError):
    """A source that was there, went away and did not come back."""

    exit_code = 5


class TrainingError(EdgecrackError):
    """A training run that went wrong: a loss or a gradient that is not finite."""


class AccuracyError(EdgecrackError):
    """A model that scores below the bound it was held to."""

    exit_code = 3
