"""A Hugging Face hub on loopback that serves a folder with models/OWNER/NAME/... and datasets/OWNER/NAME/..."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SLOW, SILENCE = 1.0, 4.0  # seconds
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """`requests` holds the paths asked for, `ranges` where in a file each transfer began.

    `faults` maps the end of a path to "gated", "drop" (half of the file, then nothing more), "drop once", "hang" (half
    of the file, then silence), "slow" (seconds without an answer), "damaged once", "elsewhere" (the file is on another
    host, as the real hub's large files are) or a status. `told` holds the hosts that were sent a token, `created` the
    repositories that were made and how.
    """

    def __init__(self, root: Path, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.root = root
        self.requests: list[str] = []
        self.ranges: list[int] = []
        self.told: set[str] = set()
        self.faults: dict[str, str] = {}
        self.created: list[tuple[str, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["Hub"]:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        lines = [json.loads(line) for line in sent.splitlines()]  # one value, or one a line
        body = lines[0] if lines else {}
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"{self.command} {path}")
        if "Authorization" in self.headers:
            self.server.told.add(self.headers["Host"].split(":")[0])
        fault = next((fault for end, fault in self.server.faults.items() if path.endswith(end)), None)
        if fault == "gated":
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        if fault == "slow":
            time.sleep(SLOW)
        if fault and fault.isdigit():
            return self._send(int(fault), b"")
        parts = path.split("/")
        if parts[0] == "api":
            return self._upload(parts[1:], lines) if self.command == "POST" else self._api(parts[1:], body)
        kind = "datasets" if parts[0] == "datasets" else "models"
        owner, name, _, _, *inside = parts[1:] if kind == "datasets" else parts
        repository = self.server.root / kind / owner / name
        if not repository.is_dir():
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        return self._file(repository.joinpath(*inside), fault or "")

    def _file(self, file: Path, fault: str) -> None:
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if fault == "elsewhere" and not self.headers["Host"].startswith("localhost"):
            linked = {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
            place = f"http://localhost:{self.server.server_address[1]}{self.path}"
            return self._send(302, b"", {"X-Repo-Commit": COMMIT, "ETag": '"x"', "Location": place, **linked})
        if fault == "damaged once" and self.server.requests.count(self.server.requests[-1]) == 1:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0] or 0)
        if self.command == "GET":
            self.server.ranges.append(start)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        sent = len(content) // 2 - start if fault in ("drop", "hang") or (fault == "drop once" and not start) else None
        return self._send(206 if start else 200, content[start:], headers, sent, hang=fault == "hang")

    def _api(self, parts: list[str], body: dict[str, Any]) -> None:
        if parts == ["whoami-v2"]:
            return self._json({"name": "me", "type": "user", "orgs": []})
        repository = self.server.root.joinpath(*parts[:3])
        if len(parts) < 3 or not repository.is_dir():
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        files = sorted(path for path in repository.rglob("*") if path.is_file())
        names = [path.relative_to(repository).as_posix() for path in files]
        entries = [self._entry(name, repository / name) for name in names]
        if "tree" in parts:
            inside = "/".join(parts[5:])
            return self._tree(entries, inside, recursive="recursive=true" in self.path.lower())
        if "paths-info" in parts:
            return self._json([entry for entry in entries if entry["path"] in body["paths"]])
        siblings = [{"rfilename": name} for name in names]
        return self._json(
            {"id": "/".join(parts[1:3]), "sha": COMMIT, "private": False, "siblings": siblings, "tags": []}
        )

    def _upload(self, parts: list[str], lines: list[dict[str, Any]]) -> None:
        """What creating a repository and uploading into it ask for; every file is small to this hub."""
        if parts[:2] == ["repos", "create"]:
            owner, name = lines[0]["organization"], lines[0]["name"]
            new = not (self.server.root / "models" / owner / name).is_dir()
            (self.server.root / "models" / owner / name).mkdir(parents=True, exist_ok=True)
            self.server.created.append((f"{owner}/{name}", lines[0]))
            url = {"url": f"{self.server.url}/{owner}/{name}", "name": f"{owner}/{name}"}
            return self._json(url, 200 if new else 409)
        if parts == ["validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        if "preupload" in parts:
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in lines[0]["files"]
            ]
            return self._json({"files": modes})
        if "commit" in parts:
            for entry in (line["value"] for line in lines if line["key"] == "file"):
                file = self.server.root.joinpath(*parts[:3], entry["path"])
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(base64.b64decode(entry["content"]))
            place = f"{self.server.url}/{'/'.join(parts[1:3])}/commit/{COMMIT}"
            return self._json({"success": True, "commitOid": COMMIT, "commitUrl": place, "hookOutput": ""})
        return self._api(parts, lines[0] if lines else {})

    def _tree(self, entries: list[dict[str, object]], inside: str, recursive: bool) -> None:
        prefix = f"{inside}/" if inside else ""
        below = [entry for entry in entries if str(entry["path"]).startswith(prefix)]
        deep = {prefix + str(entry["path"])[len(prefix) :].split("/")[0] for entry in below} if not recursive else set()
        files = [entry for entry in below if recursive or entry["path"] in deep]
        folders = deep - {str(entry["path"]) for entry in files}
        listed = [*files, *({"type": "directory", "path": path, "oid": COMMIT, "size": 0} for path in sorted(folders))]
        self._json(listed) if listed else self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _entry(self, name: str, file: Path) -> dict[str, object]:
        oid = hashlib.sha1(file.read_bytes()).hexdigest()
        return {"type": "file", "path": name, "size": file.stat().st_size, "oid": oid}

    def _json(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json", "X-Repo-Commit": COMMIT})

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        sent: int | None = None,
        hang: bool = False,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            try:
                self.wfile.write(body if sent is None else body[: max(0, sent)])
                time.sleep(SILENCE if hang else 0)
            except OSError:  # it did not wait
                self.close_connection = True
        if sent is not None:
            self.close_connection = True
