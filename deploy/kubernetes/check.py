"""Holds what is in this folder to what it promises, without a cluster: `deploy/test.sh lint` runs it (docs/KUBERNETES.md).

  check.py           every overlay and both values files; then broken copies, of which each must be noticed
  check.py --table   the table of docs/OPERATIONS.md, from connections.toml
"""

import copy
import pathlib
import re
import subprocess
import sys
import tomllib

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# The oldest that has all that is used here (`ordinals`, `sleep`), and the newest whose schemas we have.
VERSIONS = ["1.31", "1.37"]
OVERLAYS = ["one-broker", "three-brokers"]
SERVICES = ["ingress", "routing", "carrier", "identity", "privacy", "audit"]
# Their state is in one place: two of them would be two cells.
ALONE = ["identity", "privacy", "audit", "redis"]
USER = 65532
NAME = "app.kubernetes.io/name"


def build(overlay):
    built = subprocess.run(["kubectl", "kustomize", str(HERE / "overlays" / overlay)], capture_output=True, text=True)
    if built.returncode != 0:
        sys.exit(f"check.py: {overlay} cannot be built: {built.stderr}")
    return list(yaml.safe_load_all(built.stdout))


def as_the_chart_does(values):
    """The broker's StatefulSet: what the chart's templates make of the values that change it, as far as is checked here."""
    text = (HERE / "values" / values).read_text()
    values = yaml.safe_load(text)
    cluster = values["config"].get("cluster", {})
    pvc = values["config"]["jetstream"]["fileStore"]["pvc"]
    image = values["container"]["image"]
    container = {"name": "nats", "image": f"{image['repository']}:{image['tag']}"}
    container["ports"] = [{"name": "nats", "containerPort": 4222}]
    if cluster.get("enabled"):
        container["ports"].append({"name": "cluster", "containerPort": 6222})
    container["env"] = [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    container |= values["container"]["merge"]
    labels = {NAME: "nats"}
    pod = values["podTemplate"]["merge"]["spec"] | {"containers": [container]}
    spread = values["podTemplate"].get("topologySpreadConstraints", {})
    if spread:
        selector = {"labelSelector": {"matchLabels": labels}}
        pod["topologySpreadConstraints"] = [{"topologyKey": key} | selector | value for key, value in spread.items()]
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": pvc["size"]}}}
    spec = {
        "replicas": cluster.get("replicas", 1),
        "serviceName": "nats-headless",
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
        "volumeClaimTemplates": [{"metadata": {"name": pvc["name"]}, "spec": claim}],
    }
    spec |= values.get("statefulSet", {}).get("merge", {}).get("spec", {})
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "nats"}, "spec": spec}


def of_kind(objects, *kinds):
    return [each for each in objects if each["kind"] in kinds]


def name(each):
    return each["metadata"]["name"]


def workloads(objects):
    return of_kind(objects, "Deployment", "StatefulSet")


# --- what a schema says -----------------------------------------------------------------------------------------------


def schemas(objects):
    for each in objects:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(each, version, strict=True)
            except Exception as error:  # The library's errors have no base of their own.
                yield f"{each['kind']} {name(each)}: {version}: {getattr(error, 'message', error)}"


# --- what no schema says ----------------------------------------------------------------------------------------------


def hardening(objects):
    for each in workloads(objects):
        pod = each["spec"]["template"]["spec"]
        who = f"{each['kind']} {name(each)}"
        context = pod.get("securityContext", {})
        wanted = {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        if context != wanted:
            yield f"{who}: securityContext of the pod is {context}"
        for key in ("automountServiceAccountToken", "enableServiceLinks"):
            if pod.get(key) is not False:
                yield f"{who}: {key} is not off"
        if not pod.get("terminationGracePeriodSeconds", 0) > longest_grace(name(each)):
            yield f"{who}: terminationGracePeriodSeconds leaves no time to drain"
        for container in pod["containers"] + pod.get("initContainers", []):
            part = f"{who}, {container['name']}"
            wanted = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            if container.get("securityContext") != wanted:
                yield f"{part}: securityContext is {container.get('securityContext')}"
            resources = container.get("resources", {})
            if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
                yield f"{part}: resources are not bounded"
            if ":" not in container["image"] or container["image"].endswith(":latest"):
                yield f"{part}: the image names no version"
        for container in pod["containers"]:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe not in container:
                    yield f"{who}: no {probe}"
        if name(each) in SERVICES:
            paths = [pod["containers"][0].get(probe, {}).get("httpGet") for probe in ("livenessProbe", "readinessProbe")]
            if paths != [{"path": "/live", "port": "admin"}, {"path": "/ready", "port": "admin"}]:
                yield f"{who}: probes ask for {paths}"


def longest_grace(workload):
    """Seconds of `shutdown.grace` in the service's defaults; of the broker its lame duck duration, of Redis none."""
    if workload == "nats":
        return 30
    if workload not in SERVICES:
        return 0
    crate = {"carrier": "carrier-connector"}.get(workload, workload)
    defaults = tomllib.loads((ROOT / "crates" / crate / "src/default.toml").read_text())
    seconds = re.fullmatch(r"(\d+) s", defaults["shutdown"]["grace"])
    return int(seconds[1]) + 5  # and the sleep before it


def volumes(objects):
    """Secrets that others may read, volumes that nothing mounts or that are not there, keys on a node's disk."""
    for each in workloads(objects):
        pod = each["spec"]["template"]["spec"]
        who = f"{each['kind']} {name(each)}"
        claims = {name(claim) for claim in each["spec"].get("volumeClaimTemplates", [])}
        there = {volume["name"] for volume in pod["volumes"]} | claims
        containers = pod["containers"] + pod.get("initContainers", [])
        mounted = {mount["name"] for container in containers for mount in container.get("volumeMounts", [])}
        if there != mounted:
            yield f"{who}: volumes {sorted(there)}, and mounts of {sorted(mounted)}"
        for volume in pod["volumes"]:
            if "secret" in volume and volume["secret"].get("defaultMode") != 0o440:
                yield f"{who}: secret {volume['name']} has another mode than 0440"
            if "emptyDir" in volume and volume["emptyDir"].get("medium") != "Memory":
                yield f"{who}: {volume['name']} is on the node's disk"


def companions(objects):
    budgets = {each["spec"]["selector"]["matchLabels"][NAME] for each in of_kind(objects, "PodDisruptionBudget")}
    policies = {
        each["spec"]["podSelector"].get("matchLabels", {}).get(NAME): each for each in of_kind(objects, "NetworkPolicy")
    }
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each["spec"] for each in of_kind(objects, "HorizontalPodAutoscaler")}
    for each in workloads(objects):
        who = name(each)
        if who == "nats":
            continue  # The chart brings its own.
        if who not in budgets:
            yield f"{who}: no PodDisruptionBudget"
        if who not in policies:
            yield f"{who}: no NetworkPolicy"
        alone = each["spec"].get("replicas") == 1 and each["kind"] == "StatefulSet"
        if (who in ALONE) != alone:
            yield f"{who}: {'must be one' if who in ALONE else 'is not scaled'}"
        if who in ALONE and who in scaled:
            yield f"{who}: must be one, and is scaled"
        if who not in ALONE:
            scale = scaled.get(who, {})
            kinds = {metric["type"] for metric in scale.get("metrics", [])}
            wanted = {"Resource"} if who == "ingress" else {"Resource", "External"}
            if kinds != wanted or scale.get("minReplicas") != 2 or "replicas" in each["spec"]:
                yield f"{who}: scaled by {sorted(kinds)} from {scale.get('minReplicas')}"
            if "topologySpreadConstraints" not in each["spec"]["template"]["spec"]:
                yield f"{who}: not spread"
    external = {
        metric["external"]["metric"]["name"]
        for scale in scaled.values()
        for metric in scale["metrics"]
        if metric["type"] == "External"
    }
    # What docs/METRICS.md does not have, nobody serves.
    served = set(re.findall(r"^\| `(sotto_\w+)`", (ROOT / "docs/METRICS.md").read_text(), re.M))
    if len(external) != 2 or not external <= served:
        yield f"queues are measured by {sorted(external)}"
    if not any(each["spec"]["podSelector"] == {} and each["spec"].keys() == {"podSelector", "policyTypes"} and
               sorted(each["spec"]["policyTypes"]) == ["Egress", "Ingress"] for each in of_kind(objects, "NetworkPolicy")):
        yield "nothing denies by default"


# --- who talks to whom ------------------------------------------------------------------------------------------------


def table():
    return tomllib.loads((HERE / "connections.toml").read_text())["connection"]


def connections(overlay):
    return {
        (source, to, port)
        for row in table()
        if row.get("overlay", overlay) == overlay
        for source in row["from"]
        for to in row["to"]
        for port in row["ports"]
    }


def peers(entries, anybody):
    """Names of those that a rule of a policy allows."""
    if entries is None:
        return [anybody]
    found = []
    for entry in entries:
        namespace = entry.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
        selector = entry.get("podSelector", {})
        if "ipBlock" in entry:
            found.append("carriers")
        elif namespace == "kube-system" and selector == {"matchLabels": {"k8s-app": "kube-dns"}}:
            found.append("names")
        elif namespace == "monitoring" and not selector:
            found.append("monitoring")
        elif "matchLabels" in selector and "namespaceSelector" not in entry:
            found.append(selector["matchLabels"].get(NAME, "?"))
        elif "matchExpressions" in selector and "namespaceSelector" not in entry:
            (expression,) = selector["matchExpressions"]
            found += expression["values"] if expression["key"] == NAME and expression["operator"] == "In" else ["?"]
        else:
            found.append("?")
    return found


def allowed(objects):
    """What policies let in, and what they let out."""
    let_in, let_out = set(), set()
    for policy in of_kind(objects, "NetworkPolicy"):
        who = policy["spec"]["podSelector"].get("matchLabels", {}).get(NAME, "everybody")
        for rule in policy["spec"].get("ingress", []):
            for peer in peers(rule.get("from"), "clients"):
                let_in |= {(peer, who, port.get("port")) for port in rule.get("ports", [{}])}
        for rule in policy["spec"].get("egress", []):
            for peer in peers(rule.get("to"), "?"):
                let_out |= {(who, peer, port.get("port")) for port in rule.get("ports", [{}])}
    return let_in, let_out


def network(objects, overlay):
    wanted = connections(overlay)
    outside = {"clients", "monitoring"}
    let_in, let_out = allowed(objects)
    # Names are asked for by everybody, and are no row of the table.
    let_out -= {("everybody", "names", 53)}
    # Who lets anybody in lets everybody in.
    let_in |= {row for row in wanted if ("clients", *row[1:]) in let_in}
    for missing, what in (
        ({row for row in wanted if row[1] != "carriers"} - let_in, "is not let in"),
        ({row for row in wanted if row[0] not in outside} - let_out, "is not let out"),
        (let_in - wanted, "is let in and not in connections.toml"),
        (let_out - wanted, "is let out and not in connections.toml"),
    ):
        for source, to, port in sorted(missing, key=str):
            yield f"{source} to {to}, {port}: {what}"


def ports(objects, overlay):
    """Every port of the table is one that its process has, and a Service leads to it."""
    listens = {
        name(each): {port["containerPort"] for port in each["spec"]["template"]["spec"]["containers"][0]["ports"]}
        for each in workloads(objects)
    }
    serves = {}
    for service in of_kind(objects, "Service"):
        who = service["spec"]["selector"][NAME]
        serves.setdefault(who, set()).update(port["port"] for port in service["spec"]["ports"])
    for source, to, port in connections(overlay):
        if to == "carriers":
            continue
        if port not in listens[to]:
            yield f"{to} has no port {port}"
        # The chart has the Service of one broker; health is asked of each pod.
        if source != "monitoring" and (to, overlay) != ("nats", "one-broker") and port not in serves.get(to, ()):
            yield f"no Service leads to {to}, {port}"


def markdown():
    lines = ["| from | to | port | for |", "|---|---|---|---|"]
    for row in table():
        sources, targets = (", ".join(f"`{each}`" for each in row[side]) for side in ("from", "to"))
        only = " (three brokers)" if row.get("overlay") == "three-brokers" else ""
        numbers = ", ".join(str(port) for port in row["ports"])
        lines.append(f"| {sources} | {targets} | {numbers} | {row['why']}{only} |")
    return "\n".join(lines) + "\n"


def documentation():
    if markdown() not in (ROOT / "docs/OPERATIONS.md").read_text():
        yield "docs/OPERATIONS.md has another table than connections.toml: check.py --table"


# --- all of it --------------------------------------------------------------------------------------------------------


def faults(objects, overlay, valid=()):
    """All that is wrong, but for what schemas say of objects that are known to be valid."""
    yield from schemas([each for each in objects if each not in valid])
    for rule in (hardening, volumes, companions):
        yield from rule(objects)
    yield from network(objects, overlay)
    yield from ports(objects, overlay)


def find(objects, kind, who):
    return next(each for each in objects if each["kind"] == kind and name(each) == who)


def pod(objects, kind, who):
    return find(objects, kind, who)["spec"]["template"]["spec"]


def policy(objects, who):
    return find(objects, "NetworkPolicy", who)["spec"]


def drop(objects, kind, who):
    objects.remove(find(objects, kind, who))


# What is broken in a copy, and a word of what must be said of it.
BROKEN = [
    (lambda o: find(o, "Deployment", "routing")["spec"].update(replica=2), "replica"),
    (lambda o: pod(o, "StatefulSet", "privacy")["containers"][0].pop("securityContext"), "securityContext is None"),
    (lambda o: pod(o, "StatefulSet", "audit")["securityContext"].pop("fsGroupChangePolicy"), "securityContext of the pod"),
    (lambda o: pod(o, "Deployment", "ingress").pop("enableServiceLinks"), "enableServiceLinks"),
    (lambda o: pod(o, "Deployment", "ingress")["containers"][0].pop("readinessProbe"), "no readinessProbe"),
    (lambda o: pod(o, "StatefulSet", "carrier").update(terminationGracePeriodSeconds=30), "no time to drain"),
    (lambda o: pod(o, "StatefulSet", "redis")["containers"][0].update(image="redis"), "names no version"),
    (lambda o: pod(o, "StatefulSet", "nats")["containers"][0].pop("resources"), "not bounded"),
    (lambda o: pod(o, "StatefulSet", "nats")["volumes"][0]["secret"].update(defaultMode=0o444), "another mode"),
    (lambda o: pod(o, "StatefulSet", "identity")["volumes"].pop(), "and mounts of"),
    (lambda o: pod(o, "Deployment", "ingress")["volumes"][-1].update(emptyDir={}), "on the node's disk"),
    (lambda o: drop(o, "PodDisruptionBudget", "carrier"), "no PodDisruptionBudget"),
    (lambda o: drop(o, "NetworkPolicy", "redis"), "no NetworkPolicy"),
    (lambda o: drop(o, "NetworkPolicy", "nobody"), "nothing denies"),
    (lambda o: drop(o, "HorizontalPodAutoscaler", "routing"), "scaled by []"),
    (lambda o: find(o, "HorizontalPodAutoscaler", "carrier")["spec"]["metrics"][1]["external"]["metric"].update(name="sotto_x"),
     "queues are measured by"),
    (lambda o: find(o, "StatefulSet", "privacy")["spec"].update(replicas=2), "privacy: must be one"),
    (lambda o: policy(o, "routing")["egress"].append({}), "routing to ?"),
    (lambda o: policy(o, "privacy")["ingress"].append({"ports": [{"port": 7405}]}), "clients to privacy, 7405: is let in"),
    (lambda o: policy(o, "nats")["ingress"].pop(), "audit to nats, 4222: is not let in"),
    (lambda o: policy(o, "ingress")["egress"].pop(), "ingress to identity, 7444: is not let out"),
    (lambda o: drop(o, "Service", "privacy"), "no Service leads to privacy"),
]


def main():
    if sys.argv[1:] == ["--table"]:
        print(markdown(), end="")
        return
    found = list(documentation())
    for overlay in OVERLAYS:
        objects = build(overlay) + [as_the_chart_does(f"nats-{overlay}.yaml")]
        found += [f"{overlay}: {fault}" for fault in faults(objects, overlay)]
        unnoticed = []
        for number, (break_it, told) in enumerate(BROKEN):
            broken = copy.deepcopy(objects)
            break_it(broken)
            if not any(told in fault for fault in faults(broken, overlay, objects)):
                unnoticed.append(f"{overlay}: broken copy {number} was not noticed: {told}")
        found += unnoticed
        print(f"{overlay}: {len(objects)} objects, {len(BROKEN) - len(unnoticed)} broken copies noticed")
    for fault in found:
        print(f"check.py: {fault}", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
