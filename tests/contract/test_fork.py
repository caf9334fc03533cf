"""Models in the child of a process that forked: refused, as the libraries' threads did not survive."""

import subprocess
import sys

import pytest

from edgecrack.runtime.backends import BACKENDS

pytestmark = pytest.mark.parametrize("name", BACKENDS)

FORKED = """
import os, signal, sys
import numpy as np
from edgecrack.errors import EngineError
from edgecrack.runtime import open_backend
path, name, how = sys.argv[1:]
frames = np.zeros((1, 48, 64, 3), np.uint8)
backend = open_backend(path, name)
backend.submit(frames)
backend.collect()
if how == "anew":
    backend.close()
child = os.fork()
if not child:
    signal.alarm(20)  # where it hangs
    try:
        if how == "anew":
            backend = open_backend(path, name)
        backend.submit(frames)
        backend.collect()
    except EngineError as error:
        print(error, flush=True)
        backend.close()
        os._exit(7)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("how", ["inherited", "anew"])
def test_after_a_fork_nothing_hangs(model, name, how):
    command = [sys.executable, "-c", FORKED, str(model), name, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if name == "onnxruntime" and how == "anew":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 7, done.stderr
        assert "before the process forked; start processes by multiprocessing" in done.stdout


FORKED_MEANWHILE = """
import os, signal, sys, threading, time
import numpy as np
from edgecrack.errors import EngineError
from edgecrack.runtime import open_backend
path, name = sys.argv[1:]
backend = open_backend(path, name)
backend._lock.acquire()  # as by another thread that is in a call
child = os.fork()
if not child:
    signal.alarm(20)
    def call():
        try:
            backend.submit(np.zeros((1, 48, 64, 3), np.uint8))
        except EngineError:
            backend.close()
            os._exit(7)
    threading.Thread(target=call).start()
    time.sleep(30)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_lock_that_another_thread_had_at_the_fork_is_not_waited_for(model, name):
    command = [sys.executable, "-c", FORKED_MEANWHILE, str(model), name]
    assert subprocess.run(command, capture_output=True, timeout=100).returncode == 7
