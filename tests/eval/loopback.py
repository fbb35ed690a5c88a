"""An OpenAI-compatible endpoint on this machine, whose answers a test scripts."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, bytes, dict[str, str]]


class Server:
    """An endpoint on this machine: `script(number of the request, body)` says what it answers."""

    def __init__(self) -> None:
        self.script: Callable[[int, dict[str, Any]], Reply] = lambda number, body: says(body)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.together = self.most_together = 0
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(server.requests)
                    server.requests.append({"path": self.path, **body})
                    server.headers.append(self.headers)
                    server.together += 1
                    server.most_together = max(server.most_together, server.together)
                status, content, headers = server.script(number, body)
                with lock:
                    server.together -= 1
                with contextlib.suppress(OSError):  # of a judge that was too impatient
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(content)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)

            def do_GET(self) -> None:
                server.requests.append({"path": self.path})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_reason: object) -> None:
        self.http.shutdown()
        self.http.server_close()


def completion(content: Any, tokens: int | None = 10) -> Reply:
    usage = {} if tokens is None else {"usage": {"total_tokens": tokens}}
    answer = {"choices": [{"message": {"role": "assistant", "content": content}}], **usage}
    return 200, json.dumps(answer).encode(), {}


def says(body: dict[str, Any]) -> Reply:
    """Yes to what names a fault."""
    prompt = body["messages"][0]["content"]
    return completion("Yes." if "FAULT" in prompt else "no")
