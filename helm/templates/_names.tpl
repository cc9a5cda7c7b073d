{{/* What things are called, and by which labels they are found. */}}

{{- define "sottovoce.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: what is put behind it, and a pod's number, must fit into 63. */}}
{{- define "sottovoce.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "sottovoce.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sottovoce.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "sottovoce.fullname" .) -}}
{{- end -}}

{{/* Takes (root, component). */}}
{{- define "sottovoce.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sottovoce.name" (index . 0) | quote }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Takes (root, component). */}}
{{- define "sottovoce.labels" -}}
{{- $root := index . 0 -}}
{{ include "sottovoce.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: sottovoce
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The head of every object. Takes (root, component, suffix of the name). */}}
{{- define "sottovoce.metadata" -}}
{{- $root := index . 0 -}}
name: "{{ include "sottovoce.fullname" $root }}{{ with index . 2 }}-{{ . }}{{ end }}"
namespace: {{ $root.Release.Namespace | quote }}
labels:
  {{- include "sottovoce.labels" (list $root (index . 1)) | nindent 2 }}
{{- end -}}

{{/* Takes (root, image). */}}
{{- define "sottovoce.image" -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default (index . 0).Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Names under which a Service is reached. Takes (root, suffix). A list, as JSON. */}}
{{- define "sottovoce.serviceNames" -}}
{{- $root := index . 0 -}}
{{- $name := printf "%s-%s" (include "sottovoce.fullname" $root) (index . 1) -}}
{{- $inside := printf "%s.%s" $name $root.Release.Namespace -}}
{{- list $name $inside (printf "%s.svc" $inside) (printf "%s.svc.cluster.local" $inside) | toJson -}}
{{- end -}}

{{/* How many engines there may be at a time: one where there is none for the moment. */}}
{{- define "sottovoce.engineCount" -}}
{{- if .Values.engine.autoscaling.kind -}}
{{- int .Values.engine.autoscaling.maxReplicas -}}
{{- else -}}
{{- max 1 (int .Values.engine.replicas) -}}
{{- end -}}
{{- end -}}

{{/* Whether what something is scaled by, or its number of replicas, makes several of it. Takes its values. */}}
{{- define "sottovoce.isSeveral" -}}
{{- if .autoscaling.kind -}}
{{- if gt (int .autoscaling.minReplicas) 1 -}}true{{- end -}}
{{- else if gt (int .replicas) 1 -}}true{{- end -}}
{{- end -}}

{{/* Where the engines are that a proxy of this release asks: several stand behind a headless Service. A list, as JSON. */}}
{{- define "sottovoce.engineUrls" -}}
{{- if .Values.proxy.engines -}}
{{- .Values.proxy.engines | toJson -}}
{{- else -}}
{{- $name := include "sottovoce.fullname" . -}}
{{- if gt (include "sottovoce.engineCount" . | int) 1 -}}
{{- list (printf "dns+http://%s-engine-pods:8800" $name) | toJson -}}
{{- else -}}
{{- list (printf "http://%s-engine:%d" $name (int .Values.engine.service.port)) | toJson -}}
{{- end -}}
{{- end -}}
{{- end -}}
