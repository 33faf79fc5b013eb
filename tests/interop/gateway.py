"""A gateway of its own for a group of tests: the real binary on ports the system chose."""

import json
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("HANDOVER_BIN", ROOT / "target" / "debug" / "handover"))
STOP_TIMEOUT_S = 20


class Gateway:
    """Runs from construction until `stop`."""

    def __init__(self, *settings):
        self._folder = tempfile.TemporaryDirectory(prefix="handover-interop-")
        folder = Path(self._folder.name)
        self._log = open(folder / "log", "w+", encoding="utf-8")
        arguments = [BINARY, "serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        arguments += ["--certs-dir", folder / "certs", "--log-format", "json"]
        # Whatever else this machine does must not slow callers down.
        for setting in ["limits.wait_us=0", *settings]:
            arguments += ["--set", setting]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HANDOVER_")}
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=folder,
            env=environment,
        )
        told = self._announcement()
        self.host = "127.0.0.1"
        self.port = int(re.search(r"QUIC and TLS\s+127\.0\.0\.1:(\d+)", told)[1])
        self.http_port = int(re.search(r"plain HTTP\s+127\.0\.0\.1:(\d+)", told)[1])
        self.hash = re.search(r"sha-256 (\S+)", told)[1]

    def _announcement(self):
        told = ""
        for line in self._process.stdout:
            told += line
            if "certificate" in line:
                return told
        self._process.wait()
        raise RuntimeError(f"the gateway did not start: {told}{self._read_log()}")

    def _read_log(self):
        self._log.flush()
        return Path(self._log.name).read_text(encoding="utf-8")

    def stop(self):
        """Ends it as an operator would; returns what it logged as errors."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            code = "none: it had to be killed"
        self._process.stdout.close()
        lines = self._read_log().splitlines()
        self._log.close()
        self._folder.cleanup()
        errors = [line for line in lines if json.loads(line)["level"] == "ERROR"]
        if code != 0:
            errors.append(f"exit code {code}")
        return errors
