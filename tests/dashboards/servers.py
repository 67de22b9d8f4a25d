"""Servers that a check needs, on free ports and gone afterwards: PostgreSQL, NATS, a node of Sequin, Prometheus."""

import contextlib
import http.server
import itertools
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

TOKEN = "a-token-for-dashboards-only"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(what, condition, seconds=30):
    """Waits for what `condition` returns, once that is anything."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"gave up waiting until {what}")
        time.sleep(0.1)
    return found


def answers(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextlib.contextmanager
def running(command, log, *, ends_by=signal.SIGTERM, **how):
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **how)
    try:
        yield process
    finally:
        process.send_signal(ends_by)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def postgres(log):
    """A server with a database `app` of a user `sequin`; gives its port, and what runs SQL as its owner."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    programs = Path(shutil.which("initdb") or debian[-1] / "initdb").parent
    programs = programs if (programs / "postgres").exists() else debian[-1]
    how = {"cwd": "/"}
    with tempfile.TemporaryDirectory(prefix="sequin-dashboards.") as place:
        if os.geteuid() == 0:
            # It refuses to be run by root.
            user = pwd.getpwnam("postgres")
            os.chown(place, user.pw_uid, user.pw_gid)
            how |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data, port = f"{place}/data", free_port()
        initdb = [programs / "initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--no-sync"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **how)
        command = [programs / "postgres", "-D", data, "-F", "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", place]

        def psql(*commands, database="app", wait=True):
            arguments = [word for command in commands for word in ("--command", command)]
            process = subprocess.Popen(
                ["psql", "--quiet", "--no-psqlrc", "--host", "127.0.0.1", "--port", str(port), "--username", "postgres", *arguments, database],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL if not wait else None,
            )
            if wait and process.wait():
                raise RuntimeError(f"psql failed: {commands}")
            return process

        # SIGINT: sessions are ended, not waited for.
        with running(command, log, ends_by=signal.SIGINT, **how):
            asks = ["pg_isready", "--quiet", "--host", "127.0.0.1", "--port", str(port)]
            until("PostgreSQL is ready", lambda: subprocess.run(asks).returncode == 0)
            psql("create user sequin", "create database app owner sequin", database="postgres")
            psql("create schema sequin authorization sequin")
            yield port, psql


class Node:
    """A node, by its program's own client and by HTTP."""

    def __init__(self, program, port):
        self.program, self.port = program, port
        self.environment = os.environ | {"SEQUIN_URL": f"http://127.0.0.1:{port}", "SEQUIN_TOKEN": TOKEN}

    def cli(self, *arguments, input=None):
        done = subprocess.run([self.program, *arguments], env=self.environment, input=input, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"sequin {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def lacks(self, line):
        """What of such a line its program does not know: the command, or options."""
        words = line.split()[1:]
        # Names to put in are in capitals, and values come after options.
        command = list(itertools.takewhile(lambda word: re.fullmatch("[a-z][a-z-]*", word), words))
        said = subprocess.run([self.program, *command, "--help"], capture_output=True, text=True)
        if said.returncode or not command:
            return [" ".join(command)]
        return [word for word in words if word.startswith("--") and not re.search(rf"{word}\b", said.stdout)]

    def request(self, method, path, body=None, token=TOKEN):
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=40) as answer:
            return answer.read().decode()

    def publish(self, provider, records):
        # A sync is of one provider.
        sync = str(uuid.uuid5(uuid.NAMESPACE_DNS, provider))
        lines = [json.dumps({"provider": provider, "sync_id": sync, **record}) for record in records]
        self.cli("publish", input="\n".join(lines))


@contextlib.contextmanager
def node(program, tools, directory):
    """One of a cluster, with a NATS server: alone in the world, it would have no session and own nothing."""
    nats_port, monitor, port = free_port(), free_port(), free_port()
    config = directory / "nats.conf"
    config.write_text(
        f'listen: 127.0.0.1:{nats_port}\nhttp: 127.0.0.1:{monitor}\nmax_payload: 8MB\njetstream {{ store_dir: "{directory}/nats" }}\n'
    )
    nats = tools / "nats-server" if (tools / "nats-server").exists() else shutil.which("nats-server")
    settings = {
        "SEQUIN_BACKEND": f"nats://127.0.0.1:{nats_port}",
        "SEQUIN_CLUSTER": "dashboards",
        "SEQUIN_NODE": "node-1",
        "SEQUIN_LISTEN": f"127.0.0.1:{port}",
        "SEQUIN_ENCRYPTION_KEY": "ZGFzaGJvYXJkcy1kYXNoYm9hcmRzLWRhc2hib2FyZHM=",
        "SEQUIN_ADMIN_TOKEN": TOKEN,
        "RUST_LOG": "warn",
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith(("SEQUIN_", "OTEL_"))}
    with running([nats, "--config", config], directory / "nats.log"):
        until("NATS is ready", lambda: answers(monitor, "/healthz"))
        with running([program, "serve"], directory / "node.log", env=others | settings):
            until("the node is ready", lambda: answers(port, "/readyz"))
            yield Node(program, port)


class Prometheus:
    def __init__(self, port):
        self.port = port

    def get(self, path, **parameters):
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None

    def query(self, expression):
        """The series of an expression: labels, and the value."""
        data = self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    def labels(self, metric):
        return {label for series in self.get("series", **{"match[]": metric}) for label in series}


@contextlib.contextmanager
def prometheus(tools, directory, node, token, rules):
    port = free_port()
    (directory / "token").write_text(token)
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{
            "job_name": "sequin",
            "authorization": {"credentials_file": str(directory / "token")},
            "static_configs": [{"targets": [f"127.0.0.1:{node.port}"]}],
        }],
    }
    # JSON is YAML.
    (directory / "prometheus.yaml").write_text(json.dumps(config))
    command = [
        tools / "prometheus", f"--config.file={directory}/prometheus.yaml", f"--storage.tsdb.path={directory}/prometheus",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]
    with running(command, directory / "prometheus.log"):
        until("Prometheus is ready", lambda: answers(port, "/-/ready"))
        yield Prometheus(port)


@contextlib.contextmanager
def webhook():
    """Takes whatever it is sent; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
