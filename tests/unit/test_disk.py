"""Files that survive a failed write and an interrupt."""

import resource

import pytest

from edgecrack.errors import SourceError
from edgecrack.runtime.disk import DurableFile


def test_what_is_written_after_a_failure_leaves_no_hole(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with DurableFile(tmp_path / "clip.mp4", anew=True) as file:
        file.write(b"first")
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))  # as on a full disk a part of it is taken
        try:
            with pytest.raises(SourceError):
                file.write(b"second")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        file.write(b"third")
    assert (tmp_path / "clip.mp4").read_bytes() == b"firstthird"


def test_an_interrupt_while_a_line_is_written_leaves_no_part_of_it(tmp_path, monkeypatch):
    with DurableFile(tmp_path / "log.jsonl") as file:
        file.write(b"first\n")
        real = file._file

        class Interrupted:
            def write(self, data):
                real.write(data[:3])
                raise KeyboardInterrupt

            truncate, closed = real.truncate, False

        monkeypatch.setattr(file, "_file", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            file.write(b"second\n")
        monkeypatch.undo()
        file.write(b"third\n")
    assert (tmp_path / "log.jsonl").read_text() == "first\nthird\n"
