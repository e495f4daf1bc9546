"""A small Hugging Face Hub on this machine, for tests without a network.

    python tests/hub_server.py          # serves until stopped; prints what to export

    with HubServer({"hf_me": "me"}) as hub:
        subprocess.run(..., env={**os.environ, **hub.environment("hf_me", cache)})

It speaks the part of the Hub's HTTP interface that the real `huggingface_hub`, `datasets` and `diffusers` need to push
and load models, data sets and Spaces: create, preupload, large files (whole and in parts), commit, pull request,
information, refs, tree, paths, resolve with ranges; public and private repositories, tokens that may write, read, or
are unknown. Everything is kept in memory. Faults can be asked for: see `HubServer.cut_uploads`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

KINDS = ("model", "dataset", "space")
LARGE_SUFFIXES = (".bin", ".parquet", ".pt", ".safetensors")
LARGE_SIZE = 10 * 1024 * 1024
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES).encode()
DATE = "2026-11-23T12:00:00.000Z"


@dataclass(frozen=True)
class StoredFile:
    """One file of one commit; the bytes of a large one are kept apart, under their sha256."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        """The git object id: of the bytes, or of the pointer file that stands for a large file in git."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        data = pointer.encode() if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.blob_id

    def large_info(self) -> dict[str, Any]:
        return {"oid": self.sha256, "sha256": self.sha256, "size": len(self.content), "pointerSize": 134}


@dataclass
class Repo:
    """A repository: commits are {path: file}, refs name commits."""

    kind: str
    name: str
    private: bool
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.name.partition("/")[0]

    def commit(self, ref: str, files: dict[str, StoredFile]) -> str:
        listing = "".join(f"{path} {file.blob_id}\n" for path, file in sorted(files.items()))
        oid = hashlib.sha1(f"{self.refs.get(ref)}\n{listing}".encode()).hexdigest()
        self.commits[oid] = files
        self.refs[ref] = oid
        return oid

    def at(self, revision: str) -> str | None:
        """The commit that a branch, pull request or commit id means."""
        return self.refs.get(revision, revision if revision in self.commits else None)


class Refused(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


class HubServer:
    """The Hub on 127.0.0.1; a context manager.

    Args:
        tokens: {token: user}; a token that ends in "-read" may not write.
        part_size: large files of more bytes than this are uploaded in parts of so many bytes.
        page_size: entries of one page of a tree listing.
    """

    def __init__(self, tokens: dict[str, str], part_size: int = 1 << 20, page_size: int = 1000):
        self.tokens, self.part_size, self.page_size = tokens, part_size, page_size
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}  # sha256 -> bytes
        self.parts: dict[tuple[str, int], bytes] = {}  # of uploads under way: (sha256, part number) -> bytes
        self.log: list[tuple[str, str, int]] = []  # (method, path, status) of every request
        self.received: list[tuple[str, int]] = []  # (sha256, bytes) of every upload that arrived whole
        self.lock = threading.RLock()
        self._cut = (0, 0)  # bytes, times
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        # Another host, as on the Hub: clients may not take their token there.
        self.storage_url = f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, token: str | None, home: Path) -> dict[str, str]:
        """Environment variables that lead a new process here: without a token if None, caches under `home`."""
        variables = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        return variables if token is None else {**variables, "HF_TOKEN": token}

    def cut_uploads(self, after: int, times: int = 1) -> None:
        """Close the connection of the next `times` uploads of more than `after` bytes when so many have arrived."""
        self._cut = (after, times)

    def next_cut(self, length: int) -> int | None:
        """How much of an upload of `length` bytes that starts now arrives; None for all."""
        with self.lock:
            after, times = self._cut
            if times == 0 or length <= after:
                return None
            self._cut = (after, times - 1)
            return after

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository, {path: bytes}."""
        repo = self.repos[kind, name]
        return {path: file.content for path, file in repo.commits[repo.refs[revision]].items()}


@dataclass
class Request:
    """What a route is given."""

    hub: HubServer
    user: str | None
    may_write: bool
    query: dict[str, str]
    body: bytes
    headers: Any

    def json(self) -> Any:
        return json.loads(self.body)

    def repo(self, kind: str, name: str, *, write: bool = False) -> Repo:
        """The repository, if the user may read (or write) it; refuses in the Hub's words otherwise."""
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and repo.owner != self.user):
            if self.user is None:
                # The Hub does not tell strangers whether a repository exists. Over https the client takes the bare
                # status for that; over http it needs the code.
                raise Refused(401, "Invalid username or password.", "RepoNotFound")
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write and self.user is None:
            raise Refused(401, "Invalid username or password.")
        if write and (repo.owner != self.user or not self.may_write):
            raise Refused(403, "Forbidden: you don't have the rights to write to this repository.")
        return repo


@dataclass
class Answer:
    """Status, headers and body; a dict or list becomes JSON."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


_Route = Callable[..., Answer]
_ROUTES: list[tuple[str, re.Pattern[str], _Route]] = []
_API = r"/api/(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"
_WEB = r"/(?:(?P<kind>dataset|space)s/)?(?P<name>[^/]+/[^/]+)"


def route(method: str, pattern: str) -> Callable[[_Route], _Route]:
    def register(function: _Route) -> _Route:
        _ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


# ---- users and repositories ----------------------------------------------------------------------------------------


@route("GET", "/api/whoami-v2")
def whoami(request: Request) -> Answer:
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    role = "write" if request.may_write else "read"
    token = {"displayName": "test", "role": role, "createdAt": DATE}
    auth = {"type": "access_token", "accessToken": token}
    return Answer({"type": "user", "id": request.user, "name": request.user, "orgs": [], "auth": auth})


@route("POST", "/api/repos/create")
def create_repo(request: Request) -> Answer:
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    wanted = request.json()
    owner, kind = wanted.get("organization") or request.user, wanted.get("type") or "model"
    name = f"{owner}/{wanted['name']}"
    if not re.fullmatch(r"[\w.-]{1,96}", wanted["name"], re.ASCII):
        raise Refused(400, "Invalid repository name")
    if owner != request.user or not request.may_write:
        raise Refused(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
    url = f"{request.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
    if (kind, name) in request.hub.repos:
        raise Refused(409, "You already created this repo", url=url)
    repo = Repo(kind, name, wanted.get("visibility") == "private" or wanted.get("private") is True)
    repo.commit("main", {".gitattributes": StoredFile(GIT_ATTRIBUTES, large=False)})
    request.hub.repos[kind, name] = repo
    return Answer({"url": url, "name": name, "id": name})


@route("GET", _API + "/auth-check(?P<write>/write)?")
def auth_check(request: Request, kind: str, name: str, write: str | None) -> Answer:
    request.repo(kind, name, write=write is not None)
    return Answer({})


@route("GET", _API + "(?:/revision/(?P<revision>[^/]+))?")
def information(request: Request, kind: str, name: str, revision: str | None) -> Answer:
    repo, sha = _find(request, kind, name, revision or "main")
    files = repo.commits[sha]
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(files)]
    if request.query.get("blobs") in ("true", "True"):
        for sibling in siblings:
            file = files[sibling["rfilename"]]
            sibling |= {"size": len(file.content), "blobId": file.blob_id}
            sibling |= {"lfs": file.large_info()} if file.large else {}
    card = _card_data(files)
    return Answer(
        {
            "_id": hashlib.sha1(name.encode()).hexdigest()[:24],
            "id": name,
            "author": repo.owner,
            "sha": sha,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "lastModified": DATE,
            "createdAt": DATE,
            "tags": card.get("tags", []),
            "cardData": card,
            "siblings": siblings,
            "library_name": card.get("library_name"),
            "pipeline_tag": card.get("pipeline_tag"),
        }
    )


def _find(request: Request, kind: str, name: str, revision: str) -> tuple[Repo, str]:
    repo = request.repo(kind, name)
    sha = repo.at(unquote(revision))
    if sha is None:
        raise Refused(404, f"Invalid rev id: {unquote(revision)}", "RevisionNotFound")
    return repo, sha


def _card_data(files: dict[str, StoredFile]) -> dict[str, Any]:
    card = files.get("README.md")
    return _front_matter(card.content.decode()) or {} if card else {}


def _front_matter(text: str) -> Any:
    match = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", text, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


@route("GET", _API + "/refs")
def refs(request: Request, kind: str, name: str) -> Answer:
    repo = request.repo(kind, name)
    groups: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
    for ref, sha in repo.refs.items():
        pull_request = ref.startswith("refs/pr/")
        full = ref if pull_request else f"refs/heads/{ref}"
        short = ref.removeprefix("refs/pr/")
        groups["pullRequests" if pull_request else "branches"].append(
            {"name": short, "ref": full, "targetCommit": sha}
        )
    return Answer(groups)


# ---- reading -------------------------------------------------------------------------------------------------------


@route("GET", _API + "/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?")
def tree(request: Request, kind: str, name: str, revision: str, folder: str | None) -> Answer:
    repo, sha = _find(request, kind, name, revision)
    folder = unquote(folder or "").strip("/")
    entries = _entries(repo.commits[sha], folder, request.query.get("recursive") in ("true", "True", "1"))
    if folder and not entries:
        raise Refused(404, f"{folder} does not exist", "EntryNotFound")
    start = int(request.query.get("cursor", 0))
    page = entries[start : start + request.hub.page_size]
    headers = {}
    if start + len(page) < len(entries):
        passed = "&".join(f"{key}={quote(value)}" for key, value in request.query.items() if key != "cursor")
        url = f"{request.hub.url}/api/{kind}s/{name}/tree/{revision}/{quote(folder, safe='')}"
        headers["Link"] = f'<{url}?{passed}&cursor={start + len(page)}>; rel="next"'
    return Answer(page, headers=headers)


def _entries(files: dict[str, StoredFile], folder: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    below = {path: file for path, file in files.items() if path.startswith(prefix)}
    folders = {"/".join(path.split("/")[:depth]) for path in below for depth in range(1, path.count("/") + 1)}
    found = [_folder_entry(path) for path in sorted(folders) if path.startswith(prefix)]
    found += [_file_entry(path, file) for path, file in sorted(below.items())]
    return [entry for entry in found if recursive or "/" not in entry["path"][len(prefix) :]]


def _folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


def _file_entry(path: str, file: StoredFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "oid": file.blob_id, "size": len(file.content)}
    return {**entry, "lfs": file.large_info()} if file.large else entry


@route("POST", _API + "/paths-info/(?P<revision>[^/]+)")
def paths_info(request: Request, kind: str, name: str, revision: str) -> Answer:
    repo, sha = _find(request, kind, name, revision)
    files = repo.commits[sha]
    found = []
    for path in parse_qs(request.body.decode()).get("paths", []):
        if path in files:
            found.append(_file_entry(path, files[path]))
        elif any(other.startswith(f"{path}/") for other in files):
            found.append(_folder_entry(path))
    return Answer(found)


@route("GET", _WEB + "/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(request: Request, kind: str | None, name: str, revision: str, path: str) -> Answer:
    repo, sha = _find(request, kind or "model", name, revision)
    file = repo.commits[sha].get(unquote(path))
    headers = {"X-Repo-Commit": sha}
    if file is None:
        raise Refused(404, "Entry not found", "EntryNotFound", headers=headers)
    headers["ETag"] = f'"{file.etag}"'
    if not file.large:
        return _bytes(request, file.content, headers)
    headers |= {"X-Linked-Size": str(len(file.content)), "X-Linked-Etag": f'"{file.etag}"'}
    return Answer(status=302, headers={**headers, "Location": f"{request.hub.storage_url}/storage/{file.sha256}"})


@route("GET", "/storage/(?P<oid>[0-9a-f]{64})")
def stored(request: Request, oid: str) -> Answer:
    if request.user is not None:
        raise Refused(400, "The token of the Hub was sent to the storage")
    return _bytes(request, request.hub.large[oid], {"ETag": f'"{oid}"'})


def _bytes(request: Request, content: bytes, headers: dict[str, str]) -> Answer:
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if asked is None or not (asked[1] or asked[2]):
        return Answer(content, headers=headers)
    first = int(asked[1]) if asked[1] else max(0, len(content) - int(asked[2]))
    last = min(int(asked[2]), len(content) - 1) if asked[1] and asked[2] else len(content) - 1
    if first >= len(content) or last < first:
        raise Refused(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
    return Answer(content[first : last + 1], 206, headers)


# ---- writing -------------------------------------------------------------------------------------------------------


@route("POST", "/api/validate-yaml")
def validate_yaml(request: Request) -> Answer:
    try:
        data = _front_matter(request.json()["content"])
    except yaml.YAMLError as error:
        raise Refused(400, "Invalid YAML", errors=[{"message": str(error)}], warnings=[]) from error
    errors = [] if data is None else _metadata_errors(data)
    if errors:
        raise Refused(400, "Invalid metadata", errors=[{"message": text} for text in errors], warnings=[])
    warnings = [{"message": "empty or missing yaml metadata in repo card"}] if data is None else []
    return Answer({"errors": [], "warnings": warnings})


def _metadata_errors(data: Any) -> list[str]:
    """The rules of the Hub that a generated card could break."""
    if not isinstance(data, dict):
        return ['"metadata" must be an object']
    rules = {
        "license": r"[a-z0-9][a-z0-9.+-]*",
        "library_name": r"[\w.-]+",
        "pipeline_tag": r"[a-z0-9-]+",
        "base_model": r"[\w.-]+/[\w.-]+",
        "base_model_relation": r"finetune|adapter|quantized|merge",
        "datasets": r"[\w.-]+(/[\w.-]+)?",
        "tags": r"[^,]+",
        "task_categories": r"[a-z0-9-]+",
    }
    errors = []
    for name, pattern in rules.items():
        values = data.get(name, [])
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not re.fullmatch(pattern, value):
                errors.append(f'"{name}" must match {pattern}, got {value!r}')
    for model in data.get("model-index", []):
        for result in model["results"]:
            if not {"task", "dataset", "metrics"} <= set(result) or not {"name", "type"} <= set(result["dataset"]):
                errors.append('"model-index" results need task, dataset (name, type) and metrics')
    return errors


@route("POST", _API + "/preupload/(?P<revision>[^/]+)")
def preupload(request: Request, kind: str, name: str, revision: str) -> Answer:
    repo = request.repo(kind, name, write="create_pr" not in request.query)
    sha = repo.at(unquote(revision))
    if sha is None:
        raise Refused(404, f"Invalid rev id: {unquote(revision)}", "RevisionNotFound")
    present = repo.commits[sha]
    answers = []
    for file in request.json()["files"]:
        large = file["path"].endswith(LARGE_SUFFIXES) or file["size"] > LARGE_SIZE
        known = present.get(file["path"])
        mode = "lfs" if large else "regular"
        answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
        answers.append({**answer, "oid": known.etag if known else None})
    return Answer({"files": answers})


@route("POST", _WEB + r"\.git/info/lfs/objects/batch")
def large_batch(request: Request, kind: str | None, name: str) -> Answer:
    request.repo(kind or "model", name)
    if request.user is None or not request.may_write:
        raise Refused(403, "Forbidden: uploading needs a token with write access.")
    hub, objects = request.hub, []
    for item in request.json()["objects"]:
        oid, size = item["oid"], item["size"]
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if oid not in hub.large:
            upload: dict[str, Any] = {"href": f"{hub.url}/upload/{oid}"}
            if size > hub.part_size:
                count = -(-size // hub.part_size)
                urls = {f"{n:05d}": f"{hub.url}/upload/{oid}?part={n}" for n in range(1, count + 1)}
                upload = {
                    "href": f"{hub.url}/upload/{oid}/complete",
                    "header": {"chunk_size": str(hub.part_size), **urls},
                }
            answer["actions"] = {"upload": upload, "verify": {"href": f"{hub.url}/upload/{oid}/verify"}}
        objects.append(answer)
    return Answer({"transfer": "basic", "objects": objects})


@route("PUT", "/upload/(?P<oid>[0-9a-f]{64})")
def upload(request: Request, oid: str) -> Answer:
    if "part" in request.query:
        request.hub.parts[oid, int(request.query["part"])] = request.body
        return Answer(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})
    return _keep(request, oid, request.body)


@route("POST", "/upload/(?P<oid>[0-9a-f]{64})/complete")
def complete(request: Request, oid: str) -> Answer:
    listed = request.json()["parts"]
    parts = [request.hub.parts.pop((oid, part["partNumber"])) for part in listed]
    if any(hashlib.md5(data).hexdigest() != part["etag"].strip('"') for data, part in zip(parts, listed, strict=True)):
        raise Refused(400, "A part does not match its etag")
    return _keep(request, oid, b"".join(parts))


def _keep(request: Request, oid: str, data: bytes) -> Answer:
    if hashlib.sha256(data).hexdigest() != oid:
        raise Refused(400, "The content does not match its sha256")
    request.hub.large[oid] = data
    request.hub.received.append((oid, len(data)))
    return Answer({})


@route("POST", "/upload/(?P<oid>[0-9a-f]{64})/verify")
def verify(request: Request, oid: str) -> Answer:
    if len(request.hub.large.get(oid, b"")) != request.json()["size"]:
        raise Refused(404, "The object was not uploaded")
    return Answer({})


@route("POST", _API + "/commit/(?P<revision>[^/]+)")
def commit(request: Request, kind: str, name: str, revision: str) -> Answer:
    pull_request = "create_pr" in request.query
    repo = request.repo(kind, name, write=not pull_request)
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    ref = unquote(revision)
    parent = repo.at(ref)
    if parent is None:
        raise Refused(404, f"Invalid rev id: {ref}", "RevisionNotFound")
    files = dict(repo.commits[parent])
    for line in request.body.splitlines():
        item = json.loads(line)
        if item["value"].get("parentCommit", parent) != parent:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        _change(request.hub, files, item["key"], item["value"])
    web = f"{request.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
    answer: dict[str, Any] = {"success": True}
    if pull_request:
        number = 1 + sum(other.startswith("refs/pr/") for other in repo.refs)
        ref = f"refs/pr/{number}"
        repo.refs[ref] = parent
        answer["pullRequestUrl"] = f"{web}/discussions/{number}"
    sha = repo.commit(ref, files)
    return Answer({**answer, "commitOid": sha, "commitUrl": f"{web}/commit/{sha}"})


def _change(hub: HubServer, files: dict[str, StoredFile], key: str, value: dict[str, Any]) -> None:
    if key == "file":
        files[value["path"]] = StoredFile(base64.b64decode(value["content"]), large=False)
    elif key == "lfsFile":
        if value["oid"] not in hub.large:
            raise Refused(400, f"The content of {value['path']} was not uploaded")
        files[value["path"]] = StoredFile(hub.large[value["oid"]], large=True)
    elif key == "deletedFile":
        if files.pop(value["path"], None) is None:
            raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
    elif key == "deletedFolder":
        for path in [path for path in files if path.startswith(value["path"].rstrip("/") + "/")]:
            del files[path]
    elif key != "header":
        raise Refused(400, f"Unknown operation {key}")


# ---- the protocol --------------------------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve("GET")

    def do_HEAD(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:
        """The server's `log` list stands in for the terminal."""

    def _serve(self, method: str) -> None:
        split = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        limit = self.hub.next_cut(length) if method == "PUT" else None
        body = self._body(limit)
        if limit is not None:
            self.hub.log.append((self.command, split.path, 0))
            self.close_connection = True
            return
        try:
            answer = self._answer(method, split.path, parse_qs(split.query, keep_blank_values=True), body)
        except Refused as refused:
            headers = {"X-Error-Message": refused.message, **refused.body.pop("headers", {})}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            answer = Answer({"error": refused.message, **refused.body}, refused.status, headers)
        self.hub.log.append((self.command, split.path, answer.status))
        self._send(answer)

    def _answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> Answer:
        user, may_write = self._user()
        request = Request(self.hub, user, may_write, {k: v[0] for k, v in query.items()}, body, self.headers)
        for allowed, pattern, function in _ROUTES:
            match = pattern.fullmatch(path)
            if match and allowed == method:
                with self.hub.lock:
                    return function(request, **match.groupdict())
        raise Refused(404, f"This test server has no {method} {path}")

    def _user(self) -> tuple[str | None, bool]:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if not kind:
            return None, False
        if token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token], not token.endswith("-read")

    def _body(self, limit: int | None) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            return self.rfile.read(length if limit is None else min(limit, length))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
            if limit is not None and len(data) >= limit:
                return data
        self.rfile.readline()
        return data

    def _send(self, answer: Answer) -> None:
        plain = isinstance(answer.body, bytes)
        data = answer.body if plain else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        headers = {"Content-Type": "application/octet-stream" if plain else "application/json", **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def main() -> None:
    """Serve with the users "me" and "other" until interrupted."""
    with HubServer({"hf_me": "me", "hf_other": "other", "hf_me-read": "me"}) as hub:
        print(f"export HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_me", flush=True)
        try:
            seen = 0
            while True:
                time.sleep(0.2)
                for method, path, status in hub.log[seen:]:
                    print(f"{method:5} {status or 'cut'} {path}", flush=True)
                    seen += 1
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
