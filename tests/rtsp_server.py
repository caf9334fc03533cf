"""A real camera for tests: GStreamer's RTSP server, at rtsp://127.0.0.1:PORT/cam in H.264.

Run with the system's Python, which has GStreamer's bindings: /usr/bin/python3 rtsp_server.py PORT. It shows a moving pattern;
the line WIDTHxHEIGHT on standard input changes its size in mid-stream. With --file it sends the H.264 of an MP4 in its own time.
It says "ready" when it listens, and ends with its standard input.
"""

import argparse
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402 (the versions come first)

# Pictures in four slices, and the decoder's parameters before each slice of a key frame, as many such servers send them.
PATTERN = (
    "videotestsrc is-live=true ! videoscale ! capsfilter name=size caps={caps} ! "
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 threads=4 sliced-threads=true ! "
    "rtph264pay name=pay0 pt=96 config-interval=-1"
)
FILE = 'filesrc location="{file}" ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1'


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--rate", type=int, default=30)
    parser.add_argument("--file")
    parser.add_argument("--user", help="USER:PASSWORD, asked for by the digest method")
    given = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(given.port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_shared(True)
    pipeline = FILE.format(file=given.file) if given.file else PATTERN.format(caps=caps_of(given.size, given.rate))
    factory.set_launch(f"( {pipeline} )")
    if given.user:
        demand(server, factory, *given.user.split(":", 1))
    if not given.file:
        follow_sizes(factory, given.rate)
    server.get_mount_points().add_factory("/cam", factory)
    if not server.attach(None):
        sys.exit(f"port {given.port} is taken")
    loop = GLib.MainLoop()
    GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, GLib.IO_HUP, lambda *_: loop.quit())
    print("ready", flush=True)  # noqa: T201
    loop.run()


def caps_of(size, rate):
    width, height = size.split("x")
    return f"video/x-raw,width={width},height={height},framerate={rate}/1"


def demand(server, factory, user, password):
    """Let in only who knows the password; a picture of the camera is not even described to others."""
    auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "crew")
    auth.add_digest(user, password, token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for permission in (GstRtspServer.RTSP_PERM_MEDIA_FACTORY_ACCESS, GstRtspServer.RTSP_PERM_MEDIA_FACTORY_CONSTRUCT):
        permissions.add_permission_for_role("crew", permission, True)
    factory.set_permissions(permissions)


def follow_sizes(factory, rate):
    """Give the pictures the size that standard input asks for, as a camera does whose settings are changed."""
    filters = []
    factory.connect("media-configure", lambda _, media: filters.append(media.get_element().get_by_name("size")))

    def resize(stdin, condition):
        size = stdin.readline().strip()
        if size:
            for each in filters:
                each.set_property("caps", Gst.Caps.from_string(caps_of(size, rate)))
        return bool(size)

    GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, GLib.IO_IN, resize)


main()
