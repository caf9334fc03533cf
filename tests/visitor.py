"""What a visitor of the page of `run --live` asks for and is given; found through `pythonpath`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import cv2
import numpy as np


def ask(url, method="GET", **headers):
    """The status, the headers and the text of what is answered; no redirect is followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *arguments):
            return None

    request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def picture(viewer):
    """The next picture that `viewer` is given: the number of its source and its pixels."""
    while True:
        viewer.send("next")
        message = viewer.recv(20)
        if isinstance(message, bytes):
            return message[0], cv2.imdecode(np.frombuffer(message[1:], np.uint8), cv2.IMREAD_COLOR)


def state(viewer):
    while True:
        viewer.send("next")
        message = viewer.recv(20)
        if isinstance(message, str):
            return json.loads(message)
