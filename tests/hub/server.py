"""A Hub on loopback: the part of its HTTP API that downloads and uploads need, and the ways in which it can fail.

Small files come from the Hub itself; weights by a redirect to a second server, as from the Hub's CDN.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def commit_of(repo: str) -> str:
    return hashlib.sha1(repo.encode()).hexdigest()


@dataclass
class Repo:
    """Files of a repository, who may read it, and what goes wrong.

    `faults` of large files: "breaks" ends half-way every time, "breaks once" only at first, "wrong once" gives other
    bytes of the same length at first, "fails" answers 500. `head_status`: what is answered to every question.
    """

    files: dict[str, bytes]
    token: str | None = None
    gated: bool = False
    moved_to: str | None = None
    fault: str | None = None
    status: int | None = None
    plain_web_server: bool = False


@dataclass
class Hub:
    """The two servers, the repositories, and every request that was made: (server, method, path, range, token)."""

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[tuple[str, str, str, str | None, str | None]] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)  # by their sha256
    broken: set[str] = field(default_factory=set)  # what "once" has happened to

    def __enter__(self) -> Hub:
        self.servers, self.urls = {}, {}
        for name, handler in (("hub", HubHandler), ("cdn", CdnHandler)):
            server = ThreadingHTTPServer(("127.0.0.1", 0), type(name, (handler,), {"hub": self, "name": name}))
            threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
            self.servers[name] = server
            self.urls[name] = f"http://127.0.0.1:{server.server_port}"
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """From now on connections are refused."""
        while self.servers:
            _, server = self.servers.popitem()
            server.shutdown()
            server.server_close()

    def url(self, name: str = "hub") -> str:
        return self.urls[name]

    def requests_for(self, text: str) -> list[tuple[str, str, str, str | None, str | None]]:
        return [request for request in self.requests if text in request[2]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    name: str

    def log_message(self, *_) -> None:
        pass

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        if parsed:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            self.hub.requests.append((self.name, self.command, self.path, self.headers.get("Range"), token))
        return parsed

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_HEAD(self) -> None:
        self.do_GET()


class HubHandler(Handler):
    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(*found.groups())
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            repo, names = found[1], self.hub.repos[found[1]].files
            self.answer_json({"id": repo, "sha": commit_of(repo), "siblings": [{"rfilename": name} for name in names]})
        else:
            self.answer(404)

    def resolve(self, name: str, revision: str, file: str) -> None:
        repo = self.hub.repos.get(name)
        commit = commit_of(name)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repo is None or (repo.token is not None and token != repo.token):
            self.answer(404 if token else 401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        elif repo.gated:
            self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access to the model is restricted")
        elif repo.status:
            self.answer(repo.status, Retry_After="0")
        elif repo.moved_to:
            self.answer(307, Location=self.path.replace(name, repo.moved_to, 1))
        elif revision not in ("main", commit):
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif file not in repo.files:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        elif repo.plain_web_server:
            self.answer(200, repo.files[file])
        elif file.endswith(LARGE):
            etag, size = sha256(repo.files[file]), len(repo.files[file])
            location = f"{self.hub.url('cdn')}/{name}/{file}"
            self.answer(
                302, Location=location, X_Repo_Commit=commit, X_Linked_Etag=f'"{etag}"', X_Linked_Size=str(size)
            )
        else:
            etag = hashlib.sha1(repo.files[file]).hexdigest()
            self.answer(200, repo.files[file], ETag=f'"{etag}"', X_Repo_Commit=commit)

    # ---- uploads ----

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.repos.setdefault(name, Repo({}))
            self.answer_json({"url": f"{self.hub.url()}/{name}", "id": name})
        elif path == "/api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            modes = [("lfs" if file["path"].endswith(LARGE) else "regular") for file in json.loads(body)["files"]]
            named = zip(json.loads(body)["files"], modes, strict=True)
            self.answer_json(
                {"files": [{"path": f["path"], "uploadMode": mode, "shouldIgnore": False} for f, mode in named]}
            )
        elif path.endswith("/info/lfs/objects/batch"):
            self.answer_json(
                {"transfer": "basic", "objects": [self.lfs_object(o) for o in json.loads(body)["objects"]]}
            )
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self.commit(found[1], body)
        else:
            self.answer(404)

    def lfs_object(self, asked: dict) -> dict:
        upload = {"href": f"{self.hub.url('cdn')}/upload/{asked['oid']}", "header": {}}
        return {"oid": asked["oid"], "size": asked["size"], "actions": {"upload": upload}}

    def commit(self, name: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.repos[name].files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.repos[name].files[value["path"]] = self.hub.uploads[value["oid"]]
        url = f"{self.hub.url()}/{name}/commit/{commit_of(name)}"
        self.answer_json({"commitUrl": url, "commitOid": commit_of(name), "hookOutput": ""})


class CdnHandler(Handler):
    def do_GET(self) -> None:
        name, file = re.fullmatch(r"/([^/]+/[^/]+)/(.+)", unquote(self.path)).groups()
        repo = self.hub.repos[name]
        content, start = repo.files[file], 0
        once = self.path not in self.hub.broken
        self.hub.broken.add(self.path)
        if repo.fault == "fails":
            self.answer(500)
            return
        if repo.fault == "wrong once" and once:
            content = bytes(byte ^ 255 for byte in content)
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(found[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if repo.fault == "breaks" or (repo.fault == "breaks once" and once):
            content = content[: len(content) * 3 // 4]
            self.close_connection = True
        self.wfile.write(content[start:])

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.uploads[sha256(content)] = content
        self.answer(200)
