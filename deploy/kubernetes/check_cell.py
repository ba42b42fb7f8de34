"""Makes a cell and lays before each program what its pod would: `check_cell.py PROGRAMS` (`deploy/test.sh e2e`).

What secrets.sh prints is mounted as the overlays and values say, with the modes that a kubelet gives; the step that copies
keys is run; then every service checks its configuration there, the brokers theirs, and Redis is started and probed.
"""

import base64
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib

import yaml

from check import HERE, OVERLAYS, SERVICES, as_the_chart_does, build, name, workloads

REPLICAS = {"one-broker": 1, "three-brokers": 3}
# Made by the service at its first start.
MADE_LATER = ["store.clients_file"]


class Fault(Exception):
    """What would keep a pod from its work."""


def run(command, **more):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, **more)


def demand(done, what):
    if done.returncode != 0:
        raise Fault(f"{what}: {done.stdout}{done.stderr}".strip())
    return done.stdout


def given(shares, *arguments):
    """What secrets.sh prints: the files of each Secret and ConfigMap."""
    printed = demand(run([HERE / "secrets.sh", *arguments, shares]), "secrets.sh")
    objects = {}
    for each in yaml.safe_load_all(printed):
        files = {key: text.encode() for key, text in (each.get("data") or {}).items()}
        if each["kind"] == "Secret":
            files = {key: base64.b64decode(text) for key, text in files.items()}
        files |= {key: base64.b64decode(text) for key, text in (each.get("binaryData") or {}).items()}
        objects[each["kind"], name(each)] = files
    return objects


class Pod:
    """The folders that the containers of a pod see, at `root`."""

    def __init__(self, workload, objects, root, ordinal):
        self.workload, self.objects, self.root = workload, objects, root
        self.name = f"{name(workload)}-{ordinal}"
        self.spec = workload["spec"]["template"]["spec"]
        self.container = self.spec["containers"][0]
        for container in self.spec.get("initContainers", []) + [self.container]:
            for mount in container["volumeMounts"]:
                self.mount(mount)

    def inside(self, path):
        return self.root / path.lstrip("/")

    def mount(self, mount):
        volume = next((each for each in self.spec["volumes"] if each["name"] == mount["name"]), {})
        place = self.inside(mount["mountPath"])
        if "secret" in volume:
            source = volume["secret"]
            self.files("Secret", source["secretName"], source, place, source["defaultMode"])
        elif "configMap" in volume:
            source = volume["configMap"]
            if "subPath" in mount:
                source = source | {"items": [{"key": mount["subPath"], "path": "."}]}
            self.files("ConfigMap", source["name"], source, place, 0o644)
        else:
            place.mkdir(parents=True, exist_ok=True)

    def files(self, kind, which, source, place, mode):
        files = self.objects.get((kind, which))
        if files is None:
            if not source.get("optional"):
                raise Fault(f"{self.name}: there is no {kind} {which}")
            place.mkdir(parents=True, exist_ok=True)
            return
        for item in source.get("items") or [{"key": key, "path": key} for key in files]:
            if item["key"] not in files:
                raise Fault(f"{self.name}: {kind} {which} has no {item['key']}")
            path = place / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[item["key"]])
            path.chmod(mode)

    def environment(self, container):
        found = {"PATH": os.environ["PATH"]}
        for variable in container.get("env", []):
            field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            values = {"metadata.name": self.name, "metadata.labels['app.kubernetes.io/name']": name(self.workload)}
            found[variable["name"]] = values[field] if field else variable["value"]
        return found

    def prepare(self):
        """Runs the init container, its paths led into our folders."""
        for container in self.spec.get("initContainers", []):
            *shell, script = container["command"]
            script = script.replace("/given/", f"{self.root}/given/").replace("/cell/", f"{self.root}/cell/")
            demand(run(self.shell([*shell, script]), env=self.environment(container)), f"{self.name}, {container['name']}")

    def shell(self, command):
        return command

    def modes(self):
        for folder, wanted in (("secrets", 0o600), ("keystore", 0o600)):
            own = self.inside(f"/cell/{folder}")
            if "initContainers" not in self.spec or not own.is_dir():
                continue
            for path in own.iterdir():
                if path.stat().st_mode & 0o777 != wanted:
                    raise Fault(f"{self.name}: {path.name} has mode {path.stat().st_mode & 0o777:o}")

    def check_service(self, programs):
        cell = self.inside("/cell")
        service = name(self.workload)
        arguments = [*self.container["args"], "--check-config"]
        done = run([programs / f"sotto-{service}", *arguments], cwd=cell, env=self.environment(self.container))
        demand(done, self.name)
        config = tomllib.loads((cell / f"config/{service}.toml").read_text())
        settings = {f"{section}.{key}": value for section, keys in config.items() for key, value in keys.items()}
        for key, value in settings.items():
            is_file = key.endswith("file") and key not in MADE_LATER
            if is_file and not (cell / value).is_file():
                raise Fault(f"{self.name}: {key} is {value}, and nothing is there")
        listens = {int(value.rsplit(":", 1)[1]) for key, value in settings.items() if key.endswith(".listen")}
        ports = {port["containerPort"] for port in self.container["ports"]}
        if listens != ports:
            raise Fault(f"{self.name}: listens on {sorted(listens)}, and the pod has {sorted(ports)}")
        addresses = [value for value in settings.values() if isinstance(value, str) and "://" in value]
        for address in addresses:
            if ".sotto.internal:" in address:
                raise Fault(f"{self.name}: {address} is no name of this cluster")

    def check_broker(self):
        arguments = [word.replace("$(POD_NAME)", self.name) for word in self.container["args"]]
        done = run(["nats-server", *arguments, "-t"], cwd=self.inside("/cell"))
        demand(done, self.name)

    def check_redis(self):
        cell = self.inside("/cell")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [*self.container["command"], "--bind", "127.0.0.1", "--tls-port", str(port)]
        server = subprocess.Popen(command, cwd=cell, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            until = time.monotonic() + 20
            probe = self.container["readinessProbe"]["exec"]["command"]
            while run(probe, cwd=cell).returncode != 0:
                if server.poll() is not None or time.monotonic() > until:
                    server.kill()
                    raise Fault(f"{self.name}: Redis does not start: {server.communicate()[0]}")
                time.sleep(0.05)
        finally:
            server.kill()
            server.wait()


def check(workload, objects, work, programs):
    """Every pod of a workload."""
    brokers = name(workload) == "nats"
    start = workload["spec"].get("ordinals", {}).get("start", 0)
    for ordinal in range(start, start + (workload["spec"]["replicas"] if brokers else 1)):
        root = pathlib.Path(tempfile.mkdtemp(dir=work))
        pod = Pod(workload, objects, root, ordinal)
        pod.prepare()
        pod.modes()
        if brokers:
            pod.check_broker()
        elif name(workload) in SERVICES:
            pod.check_service(programs)
        else:
            pod.check_redis()


def without(objects, which, key):
    """The same without one file."""
    left = {file: text for file, text in objects[which].items() if file != key}
    return objects | {which: left}


def refused(what, word, act):
    try:
        act()
    except Fault as fault:
        if word in str(fault):
            return
        raise Fault(f"{what}: another fault than expected: {fault}") from fault
    raise Fault(f"{what}: was not noticed")


def broken(found, objects, work, programs):
    """What must be noticed, and what a second start must leave alone."""
    ingress, audit, carrier = (next(each for each in found if name(each) == who) for who in ("ingress", "audit", "carrier"))
    key = ("Secret", "carrier")
    refused("a Secret without a key", "has no carrier.key", lambda: check(carrier, without(objects, key, "carrier.key"), work, programs))
    config = ("ConfigMap", "ingress")
    wrong = {"ingress.toml": objects[config]["ingress.toml"] + b"\n[nonsense]\nx = 1\n"}
    refused("a key that is no option", "nonsense", lambda: check(ingress, objects | {config: wrong}, work, programs))
    for volume in carrier["spec"]["template"]["spec"]["volumes"]:
        if "secret" in volume:
            volume["secret"]["defaultMode"] = 0o444
    refused("a password that is open to all", "open to every user", lambda: check(carrier, objects, work, programs))

    later = {which: files for which, files in objects.items() if which != ("Secret", "audit-keystore")}
    refused("a keystore that is gone", "the keystore is gone", lambda: check(audit, later, work, programs))
    pod = Pod(audit, objects, pathlib.Path(tempfile.mkdtemp(dir=work)), 0)
    pod.prepare()
    keystore = pod.inside("/cell/keystore/audit.sks")
    keystore.write_text("written by audit")
    keystore.chmod(0o660)
    pod.prepare()
    pod.modes()
    if keystore.read_text() != "written by audit":
        raise Fault("a second start put the keystore of the birth over the one that is used")


# Stand-ins: a cluster in which one broker of three is away, and a tool that shows where it was led.
KUBECTL = """#!/bin/sh
shift 3
[ "$1" != pod/nats-2 ] || exit 1
shift
for port; do echo "Forwarding from 127.0.0.1:1${port#:} -> ${port#:}"; done
sleep 60
"""
SOTTO = """#!/bin/sh
cat "$2/run/cell.json" && [ -f "$2/ca/ca.key" ] && [ -d "$2/operator" ] && exit 7
"""


def reach(cell, work):
    """reach.sh leads the tool to every process that the cell has."""
    stand_ins = work / "stand-ins"
    stand_ins.mkdir(exist_ok=True)
    for program, text in (("kubectl", KUBECTL), ("sotto", SOTTO)):
        (stand_ins / program).write_text(text)
        (stand_ins / program).chmod(0o755)
    path = f"{stand_ins}:{os.environ['PATH']}"
    done = run([HERE / "reach.sh", cell, "doctor"], env=os.environ | {"PATH": path})
    if done.returncode != 7:
        raise Fault(f"reach.sh ended with {done.returncode}: {done.stdout}{done.stderr}")
    found = json.loads(done.stdout)
    told = json.loads((cell / "run/cell.json").read_text())
    brokers = told["nats"].split(",")
    wanted = ["tls://localhost:14222" if "nats-2" not in broker else broker for broker in brokers]
    if found["nats"].split(",") != wanted:
        raise Fault(f"reach.sh: the brokers are {found['nats']}")
    for listener, address in told["addresses"].items():
        here = address if listener.startswith("simulator") else f"127.0.0.1:1{address.rsplit(':', 1)[1]}"
        if found["addresses"][listener] != here:
            raise Fault(f"reach.sh: {listener} is {found['addresses'][listener]}")


def main():
    programs = pathlib.Path(sys.argv[1]).resolve()
    work = pathlib.Path(tempfile.mkdtemp(prefix="sotto-k8s-"))
    try:
        for overlay in OVERLAYS:
            shares = work / overlay / "shares"
            cell = ["--cell", work / overlay / "cell", "init", "--domain", "sotto.svc", "--host", "sms.example.vn"]
            more = ["--replicas", REPLICAS[overlay], "--containers", shares]
            demand(run([programs / "sotto", *cell, *more]), "sotto init")
            objects = given(shares, "--birth")
            found = workloads(build(overlay)) + [as_the_chart_does(f"nats-{overlay}.yaml")]
            for workload in found:
                check(workload, objects, work, programs)
            if {which for which, _ in given(shares).items()} != objects.keys() - {
                ("Secret", f"{service}-keystore") for service in ("identity", "privacy", "audit")
            }:
                raise Fault("secrets.sh prints keystores again without being told that it is the birth")
            reach(work / overlay / "cell", work)
            print(f"{overlay}: {len(found)} workloads get what they need")
        broken(found, objects, work, programs)
        print("broken copies were noticed")
    except Fault as fault:
        sys.exit(f"check_cell.py: {fault}")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
