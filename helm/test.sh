#!/bin/sh
# Lints and renders the chart for its default values and for each file under akidb/ci, and checks what comes out.
# Enters: nothing; fetches helm and kubectl once. Leaves: exit code 0 or the first problem. Never: a cluster.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tools=$here/../build/tools
python=${PYTHON:-python3}
"$python" "$here/fetch-helm.py" >/dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Neither tool may find a cluster, nor Helm the settings of whoever runs this.
export KUBECONFIG=/dev/null HELM_CACHE_HOME="$work/cache" HELM_CONFIG_HOME="$work/config" HELM_DATA_HOME="$work/data"

render() { # NAME [VALUES OPTION...]
    name=$1
    shift
    "$tools/helm" lint --strict "$here/akidb" "$@" >"$work/lint" || { cat "$work/lint"; exit 1; }
    "$tools/helm" template "$name" "$here/akidb" --namespace ns "$@" >"$work/$name.yaml"
    # kubectl turns YAML into JSON without a server; the empty patch changes nothing.
    "$tools/kubectl" patch --local --type merge --patch '{}' --output json --filename "$work/$name.yaml" >"$work/$name.json"
    "$python" "$here/check_render.py" "$name" "$work/$name.json"
}

refused() { # MESSAGE OPTION...
    message=$1
    shift
    if "$tools/helm" template bad "$here/akidb" "$@" >"$work/out" 2>&1; then
        echo "error: helm template $* was not refused"
        exit 1
    fi
    grep -qF -- "$message" "$work/out" || { echo "error: helm template $* does not name \`$message\`:"; cat "$work/out"; exit 1; }
}

render default
render s3 --values "$here/akidb/ci/s3-values.yaml"
render ephemeral --set controlPlane.persistence.enabled=false --set fullnameOverride=short

refused snapshot_debonce_ms --set controlPlane.config.snapshot_debonce_ms=1
refused snapshot_debounce_ms --set controlPlane.config.snapshot_debounce_ms=-1
refused replicas --set controlPlane.replicas=2
refused /controlPlane/persistence/size --set controlPlane.persistence.size=lots
refused /controlPlane/config/artifact_store --set controlPlane.config.artifact_store=http://models
refused /controlPlane/image/digest --set controlPlane.image.digest=sha256:12
echo "helm chart: ok"
