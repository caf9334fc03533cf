"""Context manager base class for objects that hold a file, a model or a camera."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11


class Closing:
    """Context manager that calls `close` on exit."""

    def close(self) -> None:
        """Release the resources held; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
