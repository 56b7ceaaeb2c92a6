"""A stand-in for E2B, to which its own SDK talks: its machines are folders in /tmp and processes of this machine.

The streams of commands are served by the code that the SDK's authors generate from E2B's protocol.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import threading
from contextlib import contextmanager
from email import message_from_bytes
from pathlib import Path
from socketserver import ThreadingMixIn
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from e2b.envd.process.process_connect import ProcessSync, ProcessWSGIApplication
from e2b.envd.process.process_pb import ProcessEvent, StartResponse
from protobuf import Oneof


class _Processes(ProcessSync):
    def start(self, request, ctx):
        asked = request.process
        command = [asked.cmd, *asked.args]
        limit = ctx.timeout_ms / 1000
        done = subprocess.run(command, cwd=asked.cwd, capture_output=True, timeout=limit, env={"PATH": "/usr/bin:/bin"})
        yield _event("start", ProcessEvent.StartEvent(pid=1))
        yield _event("data", ProcessEvent.DataEvent(output=Oneof("stdout", done.stdout)))
        yield _event("data", ProcessEvent.DataEvent(output=Oneof("stderr", done.stderr)))
        yield _event("end", ProcessEvent.EndEvent(exit_code=done.returncode, exited=True, status="exited"))


def _event(kind, event):
    return StartResponse(event=ProcessEvent(event=Oneof(kind, event)))


class _Fake:
    def __init__(self):
        self.requests, self.folders = [], set()
        self._processes = ProcessWSGIApplication(_Processes())

    def __call__(self, environ, start_response):
        path, method, body = environ["PATH_INFO"], environ["REQUEST_METHOD"], _body(environ)
        if path.startswith("/process.Process/"):
            return self._processes(environ | {"wsgi.input": io.BytesIO(body)}, start_response)
        if path == "/files":
            reply, body = self._write(environ, body)
        elif method == "DELETE":
            reply = None
        else:
            reply = {"sandboxID": "one", "templateID": "base", "clientID": "x", "envdVersion": "0.6.2"}
            reply |= {"envdAccessToken": "t", "domain": None, "trafficAccessToken": None}
        self.requests.append((method, path, environ.get("HTTP_X_API_KEY"), body))
        start_response("201 Created" if reply else "204 No Content", [("Content-Type", "application/json")])
        return [json.dumps(reply).encode()] if reply else []

    def _write(self, environ, body):
        message = message_from_bytes(b"Content-Type: " + environ["CONTENT_TYPE"].encode() + b"\r\n\r\n" + body)
        query, written = parse_qs(environ["QUERY_STRING"]), {}
        for part in message.get_payload():
            path = Path(query["path"][0] if "path" in query else part.get_filename())
            path.parent.mkdir(parents=True, exist_ok=True)
            self.folders.add(Path(*path.parts[:3]))
            path.write_bytes(part.get_payload(decode=True))
            written[str(path)] = path.read_text()
        return [{"path": path, "name": Path(path).name, "type": "file"} for path in written], written


def _body(environ):
    stream = environ["wsgi.input"]
    if environ.get("HTTP_TRANSFER_ENCODING") != "chunked":
        return stream.read(int(environ.get("CONTENT_LENGTH") or 0))
    body = b""
    while size := int(stream.readline(), 16):
        body += stream.read(size)
        stream.readline()
    return body


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def e2b_server(monkeypatch):
    """Points the SDK to the stand-in, and yields the list of requests: method, path, key, and what was sent."""
    fake = _Fake()
    server = make_server("127.0.0.1", 0, fake, _Server, _Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (("API_URL", address), ("SANDBOX_URL", address), ("API_KEY", "secret"), ("HTTP_VERSION", "1.1")):
        monkeypatch.setenv(f"E2B_{name}", value)
    try:
        yield fake.requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        for folder in fake.folders:
            shutil.rmtree(folder)
