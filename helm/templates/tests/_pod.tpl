{{/* The pod of a test: the proxy's image, as restricted as any. Takes (root, name). */}}
{{- define "sottovoce.testPod" -}}
{{- $root := index . 0 -}}
metadata:
  {{- include "sottovoce.metadata" (list $root "test" (index . 1)) | nindent 2 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  serviceAccountName: {{ include "sottovoce.serviceAccountName" $root | quote }}
  {{- include "sottovoce.podSecurity" $root | nindent 2 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
{{- end -}}

{{- define "sottovoce.testContainer" -}}
image: {{ include "sottovoce.image" (list . .Values.proxy.image) }}
imagePullPolicy: {{ .Values.proxy.image.pullPolicy }}
{{ include "sottovoce.containerSecurity" . }}
resources:
  requests: {cpu: 100m, memory: 128Mi}
  limits: {cpu: 500m, memory: 512Mi}
{{- end -}}

{{/* Engines to verify, each by an address of its own; of a name behind which several stand, whoever answers. A list, as JSON. */}}
{{- define "sottovoce.verifiedUrls" -}}
{{- $name := include "sottovoce.fullname" . -}}
{{- $port := int .Values.engine.service.port -}}
{{- $count := include "sottovoce.engineCount" . | int -}}
{{- $urls := list -}}
{{- if .Values.proxy.engines -}}
{{- range .Values.proxy.engines -}}
{{- if not (hasPrefix "srv+" .) -}}
{{- $urls = append $urls (trimPrefix "dns+" .) -}}
{{- end -}}
{{- end -}}
{{- else if eq $count 1 -}}
{{- $urls = list (printf "http://%s-engine:%d" $name $port) -}}
{{- else -}}
{{- range $number := until $count -}}
{{- $urls = append $urls (printf "http://%s-engine-%d:%d" $name $number $port) -}}
{{- end -}}
{{- end -}}
{{- $urls | toJson -}}
{{- end -}}
