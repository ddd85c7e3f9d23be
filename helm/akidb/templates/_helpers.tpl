{{/* Names. Every object of the control plane is called <fullname>-control-plane, so that later rooms get names of their own. */}}
{{- define "akidb.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "akidb.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 49 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "akidb.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 49 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 49 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "akidb.controlPlane.fullname" -}}
{{ include "akidb.fullname" . }}-control-plane
{{- end -}}

{{- define "akidb.controlPlane.selectorLabels" -}}
app.kubernetes.io/name: {{ include "akidb.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: control-plane
{{- end -}}

{{- define "akidb.controlPlane.labels" -}}
{{ include "akidb.controlPlane.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: akidb
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "akidb.controlPlane.serviceAccountName" -}}
{{- with .Values.controlPlane.serviceAccount -}}
{{- if .create -}}
{{- default (include "akidb.controlPlane.fullname" $) .name -}}
{{- else -}}
{{- default "default" .name -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "akidb.controlPlane.image" -}}
{{- with .Values.controlPlane.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The TOML file. `toToml` would write whole numbers as floats, which the control plane refuses. */}}
{{- define "akidb.controlPlane.toml" -}}
listen_rest = "0.0.0.0:7070"
listen_grpc = "0.0.0.0:7071"
data_dir = "/var/lib/akidb"
admin_token_file = "/var/lib/akidb/admin-token"
{{- range $key, $value := .Values.controlPlane.config }}
{{- if kindIs "string" $value }}
{{- if $value }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- else if kindIs "bool" $value }}
{{ $key }} = {{ $value }}
{{- else if not (kindIs "invalid" $value) }}
{{ $key }} = {{ $value | int64 }}
{{- end }}
{{- end }}
{{- end -}}
