"""Checks the objects that the chart renders.

Enters: the name of a rendering (default, s3, ephemeral) and a file of JSON objects. Leaves: exit code 0, or the first object that is not as
expected. Never: a cluster, or a YAML parser.
"""

import json
import sys
import tomllib

BASE = {"ConfigMap", "Service", "ServiceAccount", "StatefulSet"}
KINDS = {"default": BASE, "s3": BASE | {"NetworkPolicy", "PodDisruptionBudget", "ServiceMonitor"}, "ephemeral": BASE}
FULL_NAME = {"default": "default-akidb-control-plane", "s3": "s3-akidb-control-plane", "ephemeral": "short-control-plane"}


def main(name: str, path: str) -> None:
    objects = {it["kind"]: it for it in read(path)}
    expect("kinds", set(objects), KINDS[name])
    check_pod(name, objects)
    check_config(name, tomllib.loads(objects["ConfigMap"]["data"]["control-plane.toml"]))
    check_network(name, objects)
    print(f"{name}: {len(objects)} objects ok")


def read(path: str) -> list[dict]:
    """All objects of a file in which they follow one another; lists are opened."""
    with open(path, encoding="utf-8") as file:
        text = file.read().strip()
    decoder, objects = json.JSONDecoder(), []
    while text:
        item, end = decoder.raw_decode(text)
        objects += item["items"] if item["kind"] == "List" else [item]
        text = text[end:].lstrip()
    expect("objects of one kind", len({it["kind"] for it in objects}), len(objects))
    return objects


def check_pod(name: str, objects: dict) -> None:
    set_ = objects["StatefulSet"]
    expect("name", set_["metadata"]["name"], FULL_NAME[name])
    spec, template = set_["spec"], set_["spec"]["template"]
    expect("replicas", spec["replicas"], 1)
    expect("serviceName", spec["serviceName"], objects["Service"]["metadata"]["name"])
    for selector in (spec["selector"]["matchLabels"], objects["Service"]["spec"]["selector"]):
        expect("selected labels", selector.items() <= template["metadata"]["labels"].items(), True)
    pod = template["spec"]
    expect("service account", pod["serviceAccountName"], objects["ServiceAccount"]["metadata"]["name"])
    expect("service links", pod["enableServiceLinks"], False)
    security = pod["securityContext"]
    expect("pod security", (security["runAsNonRoot"], security["runAsUser"] > 0, security["seccompProfile"]), (True, True, {"type": "RuntimeDefault"}))
    (container,) = pod["containers"]
    expect("container security", container["securityContext"],
           {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}})
    expect("ports", {it["name"]: it["containerPort"] for it in container["ports"]}, {"rest": 7070, "grpc": 7071})
    probes = {it: container[it + "Probe"]["httpGet"] for it in ("startup", "liveness", "readiness")}
    expect("probes", {it: (get["path"], get["port"]) for it, get in probes.items()},
           {"startup": ("/healthz", "rest"), "liveness": ("/healthz", "rest"), "readiness": ("/readyz", "rest")})
    mounted = {it["name"]: it["mountPath"] for it in container["volumeMounts"]}
    expect("mounts", mounted, {"config": "/etc/akidb", "data": "/var/lib/akidb", "tmp": "/tmp"})
    claims = {it["metadata"]["name"]: it["spec"] for it in spec.get("volumeClaimTemplates", [])}
    volumes = {it["name"]: it for it in pod["volumes"]}
    expect("every mount has one volume", sorted([*claims, *volumes]), sorted(mounted))
    check_differences(name, container, claims, template["metadata"]["annotations"])


def check_differences(name: str, container: dict, claims: dict, annotations: dict) -> None:
    env = {it["name"]: it for it in container["env"]}
    expect("config file", env["AKIDB_CP_CONFIG"]["value"], "/etc/akidb/control-plane.toml")
    secrets = {key: it["valueFrom"]["secretKeyRef"]["name"] for key, it in env.items() if "valueFrom" in it}
    sizes = {key: it["resources"]["requests"]["storage"] for key, it in claims.items()}
    if name == "s3":
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        expect("secrets", secrets, dict.fromkeys(keys, "akidb-s3"))
        expect("claims", (sizes, claims["data"]["storageClassName"]), ({"data": "100Gi"}, "fast"))
        expect("image", container["image"], "example/akidb-control-plane@sha256:" + "0" * 64)
        expect("scrape annotation", "prometheus.io/scrape" in annotations, False)
        expect("extra variable", env["AKIDB_CP_LOG_FORMAT"]["value"], "text")
    else:
        expect("secrets", secrets, {})
        expect("claims", sizes, {"data": "20Gi"} if name == "default" else {})
        expect("image", container["image"], "akidb-control-plane:0.1.0")
        expect("scrape annotations", (annotations["prometheus.io/port"], annotations["prometheus.io/path"]), ("7070", "/metrics"))


def check_config(name: str, config: dict) -> None:
    expected = {"listen_rest": "0.0.0.0:7070", "listen_grpc": "0.0.0.0:7071", "data_dir": "/var/lib/akidb",
                "admin_token_file": "/var/lib/akidb/admin-token", "log_format": "json", "snapshot_debounce_ms": 50,
                "window_retention_days": 7, "sidecar_retention_days": 30, "shutdown_deadline_ms": 10000}
    if name == "s3":
        expected |= {"artifact_store": "s3://models/akidb", "s3_region": "eu-central-1", "s3_path_style": True, "max_blob_bytes": 34359738368}
    expect("configuration", config, expected)
    expect("whole numbers", [key for key, value in config.items() if isinstance(value, float)], [])


def check_network(name: str, objects: dict) -> None:
    ports = {it["name"]: (it["port"], it["targetPort"], it["appProtocol"]) for it in objects["Service"]["spec"]["ports"]}
    rest, grpc = (80, 81) if name == "s3" else (7070, 7071)
    expect("service ports", ports, {"rest": (rest, "rest", "http"), "grpc": (grpc, "grpc", "grpc")})
    if name != "s3":
        return
    policy = objects["NetworkPolicy"]["spec"]
    expect("policy types", policy["policyTypes"], ["Ingress", "Egress"])
    expect("ingress", [(it["ports"][0]["port"], it["from"]) for it in policy["ingress"]],
           [("rest", [{"namespaceSelector": {"matchLabels": {"team": "platform"}}}]), ("grpc", [{"namespaceSelector": {}}])])
    expect("egress", [port["port"] for it in policy["egress"] for port in it["ports"]], [53, 53, 443])
    expect("scraped port", objects["ServiceMonitor"]["spec"]["endpoints"], [{"port": "rest", "path": "/metrics", "interval": "30s"}])
    expect("role", list(objects["ServiceAccount"]["metadata"]["annotations"]), ["eks.amazonaws.com/role-arn"])


def expect(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise SystemExit(f"error: {what}: {got!r}, expected {expected!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
