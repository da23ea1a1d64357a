"""A stand-in for the W&B server on the loopback: takes whole online runs and keeps what they sent.

It answers what wandb-core asks: GraphQL to open a run, `file_stream` for history and summary, PUT for files; and what
its Python side asks to save workspaces and reports, to find runs and replace their summaries, to log
artifacts and alerts, to create a sweep and to hand a sweep's runs to an agent.
"""

import base64
import gzip
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

import yaml


@dataclass
class SentRun:
    """One run on the server: the newest value of every field, and the whole history."""

    fields: dict[str, Any] = field(default_factory=dict)  # groupName, jobType, displayName, tags, project
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    files: dict[str, bytes] = field(default_factory=dict)  # its own and those of its tables
    alerts: list[tuple[str, str]] = field(default_factory=list)  # title and text


@dataclass
class SentArtifact:
    """One artifact: its kind, the run that logged it, its aliases and the files in it."""

    type: str
    run: str
    aliases: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


@dataclass
class SentView:
    """A saved workspace (project-view) or report (runs)."""

    type: str
    fields: dict[str, Any]  # entityName, projectName, name, displayName, description
    spec: dict[str, Any]


class StandIn(ThreadingHTTPServer):
    """A server.

    `projects` are those that are there before the first run; `orders` is what an agent without a run is told, a list a
    time; `stops` says after how many values of the sweep's metric a run is stopped.
    """

    daemon_threads = True

    def __init__(
        self,
        projects: Sequence[str] = (),
        orders: Sequence[list[dict[str, Any]]] = (),
        stops: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.projects, self.orders, self.stops = list(projects), list(orders), dict(stops or {})
        self.runs: dict[str, SentRun] = {}
        self.artifacts: dict[str, SentArtifact] = {}
        self.views: list[SentView] = []
        self.stopped: set[str] = set()  # runs that someone has stopped in the browser
        self.sweeps: dict[str, dict[str, Any]] = {}  # what `wandb sweep` sent
        self.dead = False

    @property
    def env(self) -> dict[str, str]:
        """Makes wandb take this for its server, with a key of the right form."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.server_port}", "WANDB_API_KEY": "local" + "0" * 40}

    def die(self) -> None:
        self.dead = True  # connections that are open already get no answer either
        self.shutdown()
        self.server_close()


@contextmanager
def standin(**options: Any) -> Iterator[StandIn]:
    server = StandIn(**options)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.die()


_LAST_PAGE = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}


def _project(name: str) -> dict[str, Any]:
    owner = {"entityName": "me", "entity": {"id": "e", "name": "me"}, "user": None}
    return owner | {"__typename": "Project", "id": "p", "name": name, "createdAt": "", "isBenchmark": False}


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client was killed
            super().handle()

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        kind, name, file = self.path.removeprefix("/upload/").split("/", 2)
        holder = self.server.runs[name] if kind == "run" else self.server.artifacts[name]
        holder.files[unquote(file)] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            request = json.loads(body)
            self._answer({"data": self._graphql(request["query"], request.get("variables") or {})})
        else:
            if self.path.endswith("/file_stream"):  # /files/<entity>/<project>/<run>/file_stream
                self._take_stream(self.path.split("/")[-2], json.loads(body))
            self._answer({})

    def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"(query|mutation)\s+(\w+)", query)
        match found and found[2]:
            case "UpsertBucket":
                return self._open_run(variables) if "name" in variables else self._set_summary(variables)
            case "Runs":
                return self._found_runs(variables)
            case "CreateRunFiles":
                run = variables["run"]
                files = [{"name": name, "uploadUrl": self._upload_url("run", run, name)} for name in variables["files"]]
                return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}
            case "RunStoppedStatus":
                return {"project": {"run": {"stopped": variables["runId"] in self.server.stopped}}}
            case "NotifyScriptableRunAlert":
                self.server.runs[variables["runName"]].alerts.append((variables["title"], variables["text"]))
                return {"notifyScriptableRunAlert": {"success": True}}
            case "ArtifactType":
                return {"project": None}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "CreateArtifact" | "CreateArtifactManifest" | "CreateArtifactFiles" | "CommitArtifact" as step:
                return self._artifact(step, variables)
            case "Viewer":
                return {"viewer": {"id": "me", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
            case "RunResumeStatus":
                return self._resume_status(variables["name"])
            case "GetDefaultEntity":
                return {"viewer": {"id": "me", "entity": "me"}}
            case "GetProjects":
                edges = [{"node": _project(name)} for name in self.server.projects]
                return {"models": {"pageInfo": _LAST_PAGE, "edges": edges}}
            case "ProjectInternalId":
                known = variables["projectName"] in self.server.projects
                return {"project": {"id": "p", "internalId": "42"} if known else None}
            case "UpsertView2" | "upsertView":
                return self._save_view(variables)
            case "UpsertSweep":
                self.server.sweeps["s1"] = variables
                return {"upsertSweep": {"sweep": {"name": "s1", "project": _project(variables["projectName"])}}}
            case "SweepWithRuns":
                sweep = {"id": "s", "name": "s1", "config": self.server.sweeps["s1"]["config"], "runs": {"edges": []}}
                return {"project": {"sweep": sweep}}
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": "a1"}}}
            case "Heartbeat":
                busy = json.loads(variables["runState"])
                orders = [] if busy or not self.server.orders else self.server.orders.pop(0)
                orders += [{"type": "stop", "run_id": name} for name in busy if self._is_behind(name)]
                return {"agentHeartbeat": {"agent": {"id": "a1"}, "commands": json.dumps(orders)}}
            case _:
                return {}

    def _is_behind(self, name: str) -> bool:
        """Return whether Hyperband stops a run: after some values of the metric that it reads."""
        if name not in self.server.runs or name not in self.server.stops:
            return False
        metric = yaml.safe_load(self.server.sweeps["s1"]["config"])["metric"]["name"]
        return sum(metric in line for line in self.server.runs[name].history) >= self.server.stops[name]

    def _artifact(self, step: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer one of the steps in which an artifact arrives; its name serves as its id."""
        if step == "CommitArtifact":
            self.server.artifacts[variables["artifactID"]].committed = True
            return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": ""}}}
        if step == "CreateArtifactManifest":
            url = self._upload_url("artifact", variables["artifactID"], variables["name"])
            file = {"id": "f", "name": "", "displayName": "", "uploadUrl": url, "uploadHeaders": []}
            return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        sent = variables["input"]
        if step == "CreateArtifactFiles":
            nodes = [
                {
                    "storagePath": file["name"],
                    "uploadUrl": self._upload_url("artifact", file["artifactID"], file["name"]),
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": file["artifactID"]},
                }
                for file in sent["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        name, aliases = sent["artifactCollectionName"], [alias["alias"] for alias in sent["aliases"]]
        self.server.artifacts[name] = SentArtifact(sent["artifactTypeName"], sent["runName"], aliases)
        artifact = {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _upload_url(self, kind: str, name: str, file: str) -> str:
        return f"{self.server.env['WANDB_BASE_URL']}/upload/{kind}/{name}/{quote(file)}"

    def _save_view(self, variables: dict[str, Any]) -> dict[str, Any]:
        fields = {key: value for key, value in variables.items() if key != "spec"}
        self.server.views.append(SentView(variables["type"], fields, json.loads(variables["spec"])))
        view = {"id": f"view{len(self.server.views)}", "project": _project(variables["projectName"]), "updatedAt": None}
        said = {key: variables[key] for key in ("type", "name", "displayName", "description", "spec")}
        return {"upsertView": {"view": view | said, "inserted": True}}

    def _open_run(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        inserted = name not in self.server.runs
        run = self.server.runs.setdefault(name, SentRun())
        run.fields |= {key: value for key, value in variables.items() if value is not None}
        sent = json.loads(variables.get("config") or "{}")
        run.config |= {key: value["value"] for key, value in sent.items() if key != "_wandb"}
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "me"}}
        bucket = {"id": base64.b64encode(name.encode()).decode(), "name": name, "displayName": name, "project": project}
        return {"upsertBucket": {"inserted": inserted, "bucket": bucket | {"config": "{}", "historyLineCount": 0}}}

    def _set_summary(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = base64.b64decode(variables["id"]).decode()
        self.server.runs[name].summary = json.loads(variables["summaryMetrics"])
        return {"upsertBucket": {"bucket": {"id": variables["id"]}}}

    def _found_runs(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer a search for runs by their ids, all on one page."""
        if variables["project"] not in self.server.projects:
            return {"project": None}
        [(field, wanted)] = json.loads(variables["filters"]).items()
        assert field == "name" and len(wanted["$in"]) <= variables["perPage"]
        nodes = [self._node(name, run) for name, run in self.server.runs.items() if name in wanted["$in"]]
        edges = [{"node": node, "cursor": node["name"]} for node in nodes]
        runs = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "42", "runCount": len(nodes), "readOnly": False, "runs": runs}}

    def _node(self, name: str, run: SentRun) -> dict[str, Any]:
        known = {"id": base64.b64encode(name.encode()).decode(), "name": name, "displayName": name, "projectId": "42"}
        empty = dict.fromkeys(("tags", "sweepName", "group", "jobType", "commit", "notes", "historyKeys"))
        empty["user"] = {"name": "me", "username": "me"}
        return known | empty | {"state": "finished", "config": "{}", "summaryMetrics": json.dumps(run.summary)}

    def _resume_status(self, name: str) -> dict[str, Any]:
        run = self.server.runs.get(name)
        if run is None:
            return {"model": {"bucket": None}}
        last = json.dumps(run.history[-1]) if run.history else "{}"
        bucket = {
            "name": name,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([last]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(run.summary),
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": run.fields.get("tags"),
            "wandbConfig": '{"t": 1}',
        }
        return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}, "bucket": bucket}}

    def _take_stream(self, name: str, sent: dict[str, Any]) -> None:
        run = self.server.runs[name]
        files = sent.get("files") or {}
        run.history += map(json.loads, files.get("wandb-history.jsonl", {}).get("content", []))
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(line)
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, content: dict[str, Any]) -> None:
        if self.server.dead:
            self.close_connection = True
            return
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
