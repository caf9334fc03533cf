"""The errors a caller can catch.

    EdgecrackError
    +-- SpecError (ValueError)         an invalid model name, size, threshold or option
    +-- FrameError (ValueError)        an image of the wrong type, shape or content
    +-- MissingDependency (ImportError)
    +-- ExportError                    torch to ONNX failed, or the graph disagrees with torch
    +-- CalibrationError (ValueError)  frames or ranges unsuitable for calibrating this graph
    +-- BuildError                     ONNX to engine failed
    +-- EngineError                    a model file that cannot be loaded or run
    |   +-- EngineMismatch             an engine built for another GPU, TensorRT or CUDA
    +-- SourceError (OSError)          frames that cannot be read, results that cannot be written
    |   +-- SourceLost                 a camera that was lost and could not be reconnected
    +-- TrainingError                  a failed training run
    +-- AccuracyError                  a model that scores below the required bound

A message says what was expected, what was found and what to do. `exit_code` is the exit status of the command line.
"""

# appended to a missing-dependency message where installing from pip would shadow what comes with the board
BROUGHT_BY_JETSONS = "; on a Jetson it comes with JetPack: make the environment with --system-site-packages"


class EdgecrackError(Exception):
    """Base class of every failure that edgecrack anticipates and explains; anything else is a bug."""

    exit_code = 1


class SpecError(EdgecrackError, ValueError):
    """An invalid model name, size, threshold or option."""


class FrameError(EdgecrackError, ValueError):
    """An image whose type, shape or content is not the expected one."""


class MissingDependency(EdgecrackError, ImportError):
    """A library from an extra is not installed; the message names the extra."""


class ExportError(EdgecrackError):
    """A net could not be exported to ONNX, or the exported graph disagrees with it."""


class CalibrationError(EdgecrackError, ValueError):
    """Frames or ranges that are unsuitable for calibrating the given graph."""


class BuildError(EdgecrackError):
    """An engine could not be built from an ONNX file."""


class EngineError(EdgecrackError):
    """A model file that cannot be loaded or run."""


class EngineMismatch(EngineError):
    """An engine built for another GPU, TensorRT or CUDA, or one modified after it was built."""

    exit_code = 4


class SourceError(EdgecrackError, OSError):
    """Frames that cannot be read or results that cannot be written."""


class SourceLost(SourceError):
    """A source that was lost and could not be reconnected."""

    exit_code = 5


class TrainingError(EdgecrackError):
    """A failed training run: a loss or a gradient is not finite."""


class AccuracyError(EdgecrackError):
    """A model that scores below the required bound."""

    exit_code = 3
