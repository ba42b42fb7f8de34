"""Runs a cell as its pods would: `run_cell.py PROGRAMS one-broker|three-brokers` (`make kubernetes-test`, as root, on Linux).

Each pod is a network namespace of its own, with its files as a kubelet would mount them, its process as user 65532 without
capabilities, and in which packets pass as the overlay's policies allow and no others. So what is tried here is all but the
cluster: mounts and modes, names and certificates, policies, a move of each process that is alone, stops. check_cell.py is
the part of it that needs no root.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from check import SERVICES, USER, allowed, as_the_chart_does, build, connections, name, workloads
from check_cell import REPLICAS, Fault, Pod, demand, given, run

# No capability, and no way to one.
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
# Of what is not scaled by an HPA a workload says how many; of the others two are run.
SCALED = 2
# For a start, a message, a stop: far above what each takes.
BOUND = 90
# In each network: tries to connect to addresses, and tells which let it.
CONNECT = """
import json, socket, sys
def open_to(host, port):
    try:
        socket.create_connection((host, port), timeout=3).close()
        return True
    except OSError:
        return False
print(json.dumps([[host, port] for host, port in json.load(sys.stdin) if open_to(host, port)]))
"""

READY = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)"


class Network:
    """Namespaces on one bridge, which no other network is joined to."""

    def __init__(self):
        self.prefix = f"sotto-{os.getpid()}"
        self.addresses = {}
        demand(run(["ip", "netns", "add", f"{self.prefix}-bridge"]), "a network namespace (as root?)")
        self.ip("bridge", "link", "add", "br0", "type", "bridge")
        self.ip("bridge", "link", "set", "br0", "up")

    def ip(self, node, *words):
        demand(run(["ip", "-n", f"{self.prefix}-{node}", *words]), f"ip {' '.join(words)}")

    def add(self, node):
        number = len(self.addresses) + 1
        self.addresses[node] = f"10.99.0.{number}"
        demand(run(["ip", "netns", "add", f"{self.prefix}-{node}"]), "ip netns add")
        ends = ["type", "veth", "peer", "name", f"p{number}", "netns", f"{self.prefix}-bridge"]
        self.ip(node, "link", "add", "eth0", *ends)
        self.ip(node, "addr", "add", f"{self.addresses[node]}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            self.ip(node, "link", "set", link, "up")
        self.ip("bridge", "link", "set", f"p{number}", "master", "br0", "up")

    def names(self, hosts):
        """What is found by name, everywhere: `ip netns exec` mounts it over /etc/hosts."""
        text = "127.0.0.1 localhost\n" + "".join(f"{self.addresses[node]} {host}\n" for host, node in hosts.items())
        for node in self.addresses:
            folder = pathlib.Path(f"/etc/netns/{self.prefix}-{node}")
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(text)

    def within(self, node):
        return ["ip", "netns", "exec", f"{self.prefix}-{node}"]

    def only(self, node, incoming, outgoing):
        """Lets nothing pass but these pairs of address and port, answers, and what stays inside."""
        rules = ["*filter", ":INPUT DROP", ":OUTPUT DROP"]
        rules += ["-A INPUT -i lo -j ACCEPT", "-A OUTPUT -o lo -j ACCEPT"]
        rules += [f"-A {chain} -m state --state ESTABLISHED,RELATED -j ACCEPT" for chain in ("INPUT", "OUTPUT")]
        rules += [f"-A INPUT -p tcp -s {address} --dport {port} -j ACCEPT" for address, port in sorted(incoming)]
        rules += [f"-A OUTPUT -p tcp -d {address} --dport {port} -j ACCEPT" for address, port in sorted(outgoing)]
        # Said at once, so that nobody waits for it.
        rules += ["-A INPUT -p tcp -j REJECT --reject-with tcp-reset", "-A OUTPUT -p tcp -j REJECT --reject-with tcp-reset"]
        text = "\n".join([*rules, "COMMIT", ""])
        demand(run([*self.within(node), "iptables-restore"], input=text), "iptables-restore")

    def remove(self):
        for node in [*self.addresses, "bridge"]:
            run(["ip", "netns", "del", f"{self.prefix}-{node}"])
            shutil.rmtree(f"/etc/netns/{self.prefix}-{node}", ignore_errors=True)


class Mounted(Pod):
    """A pod whose files also belong to whom a kubelet gives them."""

    def mount(self, mount):
        super().mount(mount)
        place = self.inside(mount["mountPath"])
        volume = next((each for each in self.spec["volumes"] if each["name"] == mount["name"]), {})
        if "secret" in volume or "configMap" in volume:
            for path in [place, *place.rglob("*")]:
                os.chown(path, 0, USER)
        else:
            os.chown(place, 0, USER)
            place.chmod(0o2775)

    def shell(self, command):
        return [*AS_USER, *command]


class Cell:
    def __init__(self, overlay, programs, work, network, processes):
        self.overlay, self.programs, self.work = overlay, programs, work
        self.network, self.processes = network, processes
        self.cell, self.shares = work / "cell", work / "shares"
        made = ["init", "--domain", "sotto.svc", "--host", "sms.example.vn", "--replicas", REPLICAS[overlay]]
        demand(run([programs / "sotto", "--cell", self.cell, *made, "--containers", self.shares]), "sotto init")
        self.built = build(overlay)
        self.loads = workloads(self.built) + [as_the_chart_does(f"nats-{overlay}.yaml")]
        self.pods = {}
        for workload in self.loads:
            start = workload["spec"].get("ordinals", {}).get("start", 0)
            for ordinal in range(start, start + workload["spec"].get("replicas", SCALED)):
                self.network.add(f"{name(workload)}-{ordinal}")
                self.mount(workload, ordinal, given(self.shares, "--birth"))
        for other in ("carriers", "people", "clients", "monitoring"):
            self.network.add(other)
        self.network.names(self.hosts())
        self.hold()

    def mount(self, workload, ordinal, objects):
        """Lays out a pod; volumes that it had stay."""
        node = f"{name(workload)}-{ordinal}"
        self.pods[node] = Mounted(workload, objects, self.work / node, ordinal)
        self.pods[node].prepare()
        self.pods[node].modes()

    def of(self, process):
        return [node for node in self.network.addresses if node.rpartition("-")[0] == process or node == process]

    def hosts(self):
        """The Services of the overlay and the chart; each leads to one pod here."""
        hosts = {"simulator.sotto.svc": "carriers"}
        for node in self.pods:
            process, _, ordinal = node.rpartition("-")
            if process == "nats" and self.overlay == "three-brokers":
                hosts[f"{node}.sotto.svc"] = node
            elif ordinal == "0":
                hosts[f"{process}.sotto.svc"] = node
        return hosts

    def hold(self):
        """The policies, as they were built."""
        let_in, let_out = allowed(self.built)
        addresses = self.network.addresses
        for node in self.pods:
            process = node.rpartition("-")[0]
            incoming = {
                ("0.0.0.0/0" if source == "clients" else addresses[peer], port)
                for source, to, port in let_in
                if to == process
                for peer in self.of(source)
            }
            outgoing = {(addresses[peer], port) for source, to, port in let_out if source == process for peer in self.of(to)}
            # A port-forward comes from within the pod.
            incoming |= {(addresses["people"], "0:65535")}
            self.network.only(node, incoming, outgoing)

    def start(self, node, command, folder, environment, user=AS_USER):
        log = (self.work / f"{node}.log").open("a")
        command = [str(word) for word in [*self.network.within(node), *user, *command]]
        self.processes[node] = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def start_pod(self, node):
        pod = self.pods[node]
        process = node.rpartition("-")[0]
        container = pod.container
        if process in SERVICES:
            command = [self.programs / f"sotto-{process}", *container["args"]]
        elif process == "nats":
            command = ["nats-server", *(word.replace("$(POD_NAME)", node) for word in container["args"])]
        else:
            command = container["command"]
        self.start(node, command, pod.inside("/cell"), pod.environment(container))

    def start_carrier(self):
        """The simulator, as a carrier somewhere."""
        share = self.shares / "simulator"
        listen = ["--listen=0.0.0.0:2775", "--admin=0.0.0.0:2776", "--account=sotto:secrets/simulator"]
        tls = ["--tls-cert=tls/simulator.pem", "--tls-key=tls/simulator.key"]
        self.start("carriers", [self.programs / "sotto-simulator", *listen, *tls], share, {}, user=[])

    def stop(self, node):
        # What `preStop` says to a broker: it hands its work over first.
        self.processes[node].send_signal(signal.SIGUSR2 if node.startswith("nats") else signal.SIGTERM)
        code = self.processes.pop(node).wait(BOUND)
        if code != 0:
            raise Fault(f"{node} ended with {code}")

    def healed(self):
        """Waits until `sotto doctor` finds nothing; with three brokers that is three copies of each stream."""
        until = time.monotonic() + BOUND
        while True:
            try:
                return self.sotto("doctor")
            except Fault:
                if time.monotonic() > until:
                    raise

    def sotto(self, *arguments, text=None):
        command = [*self.network.within("people"), self.programs / "sotto", "--cell", self.cell, "--json", *arguments]
        return demand(run(command, input=text), f"sotto {' '.join(arguments)}")

    def ready(self, nodes):
        until = time.monotonic() + BOUND
        for node in nodes:
            url = f"http://{self.network.addresses[node]}:7450/ready"
            while run([*self.network.within("people"), sys.executable, "-c", READY, url]).returncode != 0:
                if time.monotonic() > until:
                    raise Fault(f"{node} is not ready")
                time.sleep(0.2)

    def message(self, number):
        """Sends one, and waits until it is delivered."""
        words = ["send", "--client", "shop", "--from", "ACMEBANK", "--class", "otp", "--to", "-", "--text", "-"]
        until = time.monotonic() + BOUND
        while True:
            try:
                sent = self.sotto(*words, "--idempotency-key", f"run-{number}", text=f"+84912345678\nYour code is {number:06}")
                break
            except Fault:
                # What was refused while a pod moved is repeated with its key, as clients do.
                if time.monotonic() > until:
                    raise
        shown = self.sotto("message", "show", json.loads(sent)["message_id"], "--client", "shop", "--wait", "30")
        if "delivered" not in shown:
            raise Fault(f"message {number}: {shown}")

    def reachable(self):
        """Who reaches whom, by trying: the table, and nothing besides."""
        addresses = self.network.addresses
        listening = {node: [port["containerPort"] for port in pod.container["ports"]] for node, pod in self.pods.items()}
        targets = [(addresses[node], port) for node, ports in listening.items() for port in ports]
        wanted = connections(self.overlay)
        tried = 0
        for source in [*self.pods, "clients", "monitoring"]:
            process = source.rpartition("-")[0] or source
            others = [target for target in targets if target[0] != addresses[source]]
            command = [*self.network.within(source), sys.executable, "-c", CONNECT]
            found = {tuple(each) for each in json.loads(demand(run(command, input=json.dumps(others)), "connect"))}
            allow = {
                (addresses[node], port)
                for node, ports in listening.items()
                for port in ports
                if (process, node.rpartition("-")[0], port) in wanted
                or (source in ("clients", "monitoring") and ("clients", node.rpartition("-")[0], port) in wanted)
            }
            tried += len(others)
            if found != allow - {target for target in allow if target[0] == addresses[source]}:
                raise Fault(f"{source} reaches {sorted(found - allow)}, and not {sorted(allow - found)}")
        return tried


def try_out(cell):
    for node in cell.of("nats") + cell.of("redis"):
        cell.start_pod(node)
    cell.start_carrier()
    cell.sotto("provision")
    for service in ("privacy", "identity", "audit", "routing", "carrier", "ingress"):
        for node in cell.of(service):
            cell.start_pod(node)
    services = [node for service in SERVICES for node in cell.of(service)]
    cell.ready(services)
    cell.sotto("owner", "claim")
    cell.sotto("client", "create", "--name", "shop", "--tenant", "acme", "--sender", "ACMEBANK")
    cell.message(1)
    cell.sotto("doctor")
    print(f"{cell.overlay}: {len(cell.pods)} pods run, a message is delivered, nothing is wrong")
    print(f"{cell.overlay}: {cell.reachable()} connections tried: those of the table work, and no others")

    # Each is moved, after its birth: its keystore comes from nowhere but its volume.
    later = given(cell.shares)
    moved = ["privacy-0", "identity-0", "audit-0", "redis-0", "carrier-0", "routing-0", cell.of("nats")[-1]]
    for number, node in enumerate(moved, 2):
        workload, ordinal = cell.pods[node].workload, int(node.rpartition("-")[2])
        cell.stop(node)
        cell.mount(workload, ordinal, later)
        cell.start_pod(node)
        cell.message(number)
    cell.ready(services)
    cell.healed()
    ledger = json.loads(cell.sotto("ledger", "check"))
    if (ledger["accepted"], ledger["delivered"]) != (len(moved) + 1, len(moved) + 1):
        raise Fault(f"the ledger says {ledger}")
    cell.sotto("audit", "verify", "--log", str(cell.pods["audit-0"].inside("/cell/data/audit")))
    print(f"{cell.overlay}: {len(moved)} pods were moved, every message was delivered, the log verifies")
    for node in [*reversed(services), *cell.of("redis")]:
        cell.stop(node)
    print(f"{cell.overlay}: services stopped in order")


def main():
    programs, overlay = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    for tool in ("ip", "iptables-restore", "setpriv", "nats-server", "redis-server"):
        if not shutil.which(tool):
            sys.exit(f"run_cell.py: {tool} is not here (Debian: iproute2, iptables, util-linux; make setup)")
    if os.geteuid() != 0:
        sys.exit("run_cell.py: network namespaces need root")
    work = pathlib.Path(tempfile.mkdtemp(prefix="sotto-k8s-"))
    # Processes that are not root must get in.
    work.chmod(0o755)
    network, processes = Network(), {}
    try:
        try_out(Cell(overlay, programs, work, network, processes))
    except Fault as fault:
        for log in sorted(work.glob("*.log")):
            print(f"--- {log.name}", *log.read_text().splitlines()[-15:], sep="\n", file=sys.stderr)
        sys.exit(f"run_cell.py: {fault}")
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
        network.remove()
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
