"""A real SRT sender for tests: GStreamer's, which waits at a port for callers and shows them a moving pattern in H.264.

Run with the system's Python, which has GStreamer's bindings: /usr/bin/python3 srt_sender.py PORT PASSPHRASE. It says "ready"
when it listens.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402 (the version comes first)

PIPELINE = (
    "videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 ! "
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! mpegtsmux ! "
    'srtsink uri="srt://127.0.0.1:{}?mode=listener" passphrase={} pbkeylen=16 wait-for-connection=false'
)

Gst.init(None)
pipeline = Gst.parse_launch(PIPELINE.format(*sys.argv[1:]))
if pipeline.set_state(Gst.State.PLAYING) == Gst.StateChangeReturn.FAILURE:
    sys.exit("it does not start")
pipeline.get_state(Gst.CLOCK_TIME_NONE)
sys.stdout.write("ready\n")
sys.stdout.flush()
GLib.MainLoop().run()
