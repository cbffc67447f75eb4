"""An S3 server (moto) with simulated outages: it answers 503 as long as a certain file exists.

python tests/support/s3_server.py ADDRESS PORT FILE
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


def serve(address: str, port: int, switch: Path) -> None:
    s3 = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if not switch.exists():
            return s3(environ, start)
        print("refused:", environ["REQUEST_METHOD"], environ["PATH_INFO"], flush=True)
        start("503 Slow Down", [("Content-Type", "application/xml")])
        return [SLOW_DOWN]

    run_simple(address, port, answer, threaded=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
