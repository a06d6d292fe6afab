{{/* The name of everything: the release's, cut so that the longest derived name fits. A Service's name holds no dot and
begins with a letter: 70b becomes epp-70b. */}}
{{- define "epp.name" -}}
{{- $name := .Release.Name | lower | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- if regexMatch "^[0-9]" $name -}}epp-{{ $name }}{{- else -}}{{ $name }}-epp{{- end -}}
{{- end -}}

{{/* The lease of the replicas: named after the pool, or after the Deployment where there is none. */}}
{{- define "epp.lease" -}}
{{- $of := include "epp.name" . -}}
{{- if eq .Values.mode "gateway" -}}{{- $of = include "epp.pool" . -}}{{- end -}}
{{- printf "epp-%s-%s.gateway-api-inference-extension.sigs.k8s.io" .Release.Namespace $of -}}
{{- end -}}

{{/* The pool this is the extension of. */}}
{{- define "epp.pool" -}}
{{- default .Release.Name .Values.inferencePool.name -}}
{{- end -}}

{{- define "epp.selectorLabels" -}}
app.kubernetes.io/name: endpoint-picker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "epp.labels" -}}
{{ include "epp.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "epp.elected" -}}
{{- if and .Values.leaderElection (gt (int .Values.replicas) 1) -}}true{{- end -}}
{{- end -}}

{{- define "epp.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository is required: build the Dockerfile, push it, and name it here" $image.repository -}}
{{- if $image.digest -}}{{ $repository }}@{{ $image.digest }}{{- else -}}{{ $repository }}:{{ default .Chart.AppVersion $image.tag }}{{- end -}}
{{- end -}}

{{/* What a container may do to the node: nothing. */}}
{{- define "epp.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
