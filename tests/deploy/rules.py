"""The rules that a deployment has to keep, beyond Kubernetes' schemas.

Each file that it is given is one deployment. A rule says what holds and why, and has a breach that it must find: each
run first plants it in the first deployment, so that no rule is here that can't fail.
"""

import copy
import re
import sys
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[2]
# preStop's action `sleep` came with the former; the latter is the newest that the validator knows.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
# Kinds that are not Kubernetes' own, so that no schema of it has them: `monitors_find_something` and tests/dashboards.sh look
# at them.
OPERATOR = "monitoring.coreos.com"
# How long a node takes to end at most, as src/service.rs and EngineSettings::drain_deadline say: requests, and what is
# on its way into databases.
DRAIN_SECONDS = 5 + 20


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def workloads(documents):
    return of_kind(documents, "Deployment", "StatefulSet")


def pod(workload):
    return workload["spec"]["template"]["spec"]


def containers(documents):
    for workload in workloads(documents):
        for container in pod(workload).get("initContainers", []) + pod(workload)["containers"]:
            yield workload, container


def name(document):
    return f"{document['kind']} {document['metadata']['name']}"


def schemas(documents):
    for document in documents:
        if document["apiVersion"].split("/")[0] == OPERATOR:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name(document)}, Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"


def unprivileged(documents):
    for workload, container in containers(documents):
        security = pod(workload).get("securityContext", {}) | container.get("securityContext", {})
        wanted = {"runAsNonRoot": True, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False}
        for field, value in wanted.items():
            if security.get(field) is not value:
                yield f"{name(workload)}: {field} is not {value}"
        if not security.get("runAsUser", 0):
            yield f"{name(workload)}: runAsUser is root, or up to the image"
        if "ALL" not in security.get("capabilities", {}).get("drop", []):
            yield f"{name(workload)}: capabilities are not dropped"
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name(workload)}: seccompProfile is not RuntimeDefault"


def no_token(documents):
    for workload in workloads(documents):
        if pod(workload).get("automountServiceAccountToken") is not False:
            yield f"{name(workload)}: automountServiceAccountToken is not false"


def bounded(documents):
    for workload, container in containers(documents):
        resources = container.get("resources", {})
        for where, field in [("limits", "memory"), ("requests", "memory"), ("requests", "cpu")]:
            if field not in resources.get(where, {}):
                yield f"{name(workload)}: no {where} of {field}"


def probed(documents):
    for workload, container in containers(documents):
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
            if probe not in container:
                yield f"{name(workload)}: no {probe}"


def pinned(documents):
    for workload, container in containers(documents):
        if container["image"] != "sequin" and not re.search(r":(?!latest$)[^/]+$", container["image"]):
            yield f"{name(workload)}: {container['image']} has no tag that stays"


def drained(documents):
    for workload in of_kind(documents, "Deployment"):
        sleep = pod(workload)["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if sleep == 0:
            yield f"{name(workload)}: ends while it still gets requests, as it has no preStop"
        if pod(workload).get("terminationGracePeriodSeconds", 30) < sleep + DRAIN_SECONDS + 10:
            yield f"{name(workload)}: terminationGracePeriodSeconds does not cover preStop and the drain"


def secrets_are_outside(documents):
    for document in of_kind(documents, "Secret"):
        yield f"{name(document)} is in the repository"


def documented_secrets():
    readme = (ROOT / "deploy/README.md").read_text() + (ROOT / "deploy/dashboards/README.md").read_text()
    commands = re.findall(r"create secret generic (\S+)((?:.*\\\n)*.*)", readme)
    return {(secret, key) for secret, rest in commands for key in re.findall(r"--from-\w+=([\w.-]+)=", rest)}


def secrets_are_documented(documents):
    documented = documented_secrets()
    for workload, container in containers(documents):
        wanted = [variable.get("valueFrom", {}).get("secretKeyRef") for variable in container.get("env", [])]
        used = {(reference["name"], reference["key"]) for reference in wanted if reference}
        for volume in pod(workload).get("volumes", []):
            for item in volume.get("secret", {}).get("items", []):
                used.add((volume["secret"]["secretName"], item["key"]))
        for secret, key in sorted(used - documented):
            yield f"{name(workload)}: deploy/README.md does not say how the secret {secret} gets its {key}"


def monitors_find_something(documents):
    for monitor in of_kind(documents, "PodMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [workload for workload in workloads(documents) if wanted <= workload["spec"]["template"]["metadata"]["labels"].items()]
        ports = {port["name"] for workload in found for container in pod(workload)["containers"] for port in container["ports"]}
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            if endpoint["port"] not in ports:
                yield f"{name(monitor)}: no pod that it selects has a port {endpoint['port']}"
            token = endpoint["authorization"]["credentials"]
            if (token["name"], token["key"]) not in documented_secrets():
                yield f"{name(monitor)}: deploy/dashboards/README.md does not say how the secret {token['name']} gets its {token['key']}"


def settings_are_documented(documents):
    readmes = (ROOT / "deploy/README.md").read_text() + (ROOT / "README.md").read_text()
    known = set(re.findall(r"`(SEQUIN_\w+)", readmes))
    used = {setting for document in of_kind(documents, "ConfigMap") for setting in document["data"]}
    for _, container in containers(documents):
        used |= {variable["name"] for variable in container.get("env", []) if container["name"] == "sequin"}
    for setting in sorted(used - known):
        if setting.startswith("SEQUIN_"):
            yield f"neither README describes {setting}"


def config_maps_exist(documents):
    there = {document["metadata"]["name"] for document in of_kind(documents, "ConfigMap")}
    for workload, container in containers(documents):
        used = [source["configMapRef"]["name"] for source in container.get("envFrom", []) if "configMapRef" in source]
        used += [volume["configMap"]["name"] for volume in pod(workload).get("volumes", []) if "configMap" in volume]
        for missing in sorted(set(used) - there):
            yield f"{name(workload)}: there is no ConfigMap {missing}"


def selectors_select(documents):
    pods = [workload["spec"]["template"]["metadata"]["labels"] for workload in workloads(documents)]
    for document in of_kind(documents, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        selector = document["spec"].get("selector") or document["spec"].get("podSelector")
        wanted = selector.get("matchLabels", selector)
        if not any(wanted.items() <= labels.items() for labels in pods):
            yield f"{name(document)}: selects no pod"
    for document in of_kind(documents, "HorizontalPodAutoscaler"):
        target = document["spec"]["scaleTargetRef"]
        if f"{target['kind']} {target['name']}" not in map(name, workloads(documents)):
            yield f"{name(document)}: scales what is not there"


def every_pod_is_fenced_in(documents):
    policies = of_kind(documents, "NetworkPolicy")
    fenced = [policy["spec"]["podSelector"]["matchLabels"] for policy in policies if len(policy["spec"]["policyTypes"]) == 2]
    for workload in workloads(documents):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        if not any(selector.items() <= labels.items() for selector in fenced):
            yield f"{name(workload)}: no NetworkPolicy for what it is asked and whom it asks"


def collectors_are_spoken_to(texts):
    """By default it is spoken to by HTTP, which its port for gRPC does not understand; and the other way round."""
    for place, text in texts:
        lines = text.splitlines()
        for number, line in enumerate(lines):
            endpoint = re.search(r"OTEL_EXPORTER_OTLP_(?:[A-Z]+_)?ENDPOINT\W+https?://[^:/\s]+:(4317|4318)\b", line)
            if endpoint:
                beside = "\n".join(lines[max(number - 3, 0) : number + 4])
                speaks_grpc = re.search(r"OTEL_EXPORTER_OTLP_(?:[A-Z]+_)?PROTOCOL\W+grpc\b", beside) is not None
                if speaks_grpc != (endpoint.group(1) == "4317"):
                    yield f"{place}: port {endpoint.group(1)} of a collector is not for {'gRPC' if speaks_grpc else 'HTTP'}: {line.strip()}"


def shown_to_people():
    """What people copy settings from."""
    for directory in ["deploy", ""]:
        for path in sorted((ROOT / directory).glob("**/*" if directory else "*.md")):
            if path.is_file() and path.suffix in {".env", ".md", ".sample", ".sh", ".yaml"}:
                yield str(path.relative_to(ROOT)), path.read_text()


def first(documents, kind):
    return of_kind(documents, kind)[0]


def container(documents):
    return pod(first(documents, "Deployment"))["containers"][0]


def lost_monitor():
    endpoint = {"port": "metrics", "authorization": {"credentials": {"name": "sequin-metrics", "key": "token"}}}
    spec = {"selector": {"matchLabels": {"app.kubernetes.io/name": "sequin"}}, "podMetricsEndpoints": [endpoint]}
    return {"apiVersion": f"{OPERATOR}/v1", "kind": "PodMonitor", "metadata": {"name": "lost"}, "spec": spec}


RULES = [
    (schemas, lambda d: first(d, "Deployment")["spec"].update(replica=3)),
    (unprivileged, lambda d: pod(first(d, "Deployment"))["securityContext"].pop("runAsNonRoot")),
    (no_token, lambda d: pod(first(d, "Deployment")).pop("automountServiceAccountToken")),
    (bounded, lambda d: container(d)["resources"].pop("limits")),
    (probed, lambda d: container(d).pop("readinessProbe")),
    (pinned, lambda d: container(d).update(image="registry.example.com:5000/sequin")),
    (drained, lambda d: pod(first(d, "Deployment")).update(terminationGracePeriodSeconds=30)),
    (secrets_are_outside, lambda d: d.append({"kind": "Secret", "metadata": {"name": "sequin"}})),
    (secrets_are_documented, lambda d: container(d)["env"][-1].update(valueFrom={"secretKeyRef": {"name": "a", "key": "b"}})),
    (settings_are_documented, lambda d: container(d)["env"].append({"name": "SEQUIN_NODES", "value": "3"})),
    (config_maps_exist, lambda d: container(d)["envFrom"].append({"configMapRef": {"name": "nothing"}})),
    (selectors_select, lambda d: first(d, "Service")["spec"]["selector"].update({"app.kubernetes.io/name": "other"})),
    (monitors_find_something, lambda d: d.append(lost_monitor())),
    (every_pod_is_fenced_in, lambda d: first(d, "NetworkPolicy")["spec"]["policyTypes"].remove("Egress")),
]


def main(files):
    findings = []
    for file in files:
        documents = [document for document in yaml.safe_load_all(Path(file).read_text()) if document]
        for rule, plant in RULES if file == files[0] else []:
            planted = copy.deepcopy(documents)
            plant(planted)
            if len(list(rule(planted))) <= len(list(rule(documents))):
                findings.append(f"the rule {rule.__name__} does not find the breach that was planted")
        for rule, _ in RULES:
            # What generates ConfigMaps has not run where nothing was rendered.
            if Path(file).stem != "parts" or rule is not config_maps_exist:
                findings += [f"{Path(file).stem}: {finding}" for finding in rule(documents)]
    endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector"
    for planted in [f"{endpoint}:4317", f"{endpoint}:4318 OTEL_EXPORTER_OTLP_PROTOCOL=grpc"]:
        if not list(collectors_are_spoken_to([("planted", planted)])):
            findings.append("the rule collectors_are_spoken_to does not find the breach that was planted")
    findings += collectors_are_spoken_to(shown_to_people())
    for finding in findings:
        print(f"deploy: {finding}", file=sys.stderr)
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
