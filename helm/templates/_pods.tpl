{{/* What pods have in common: arguments made of settings, security, files, probes. */}}

{{/*
Arguments of settings, in the order of their names, so that the same values always make the same arguments.
YAML's numbers arrive as floating point, which would print 1744830464 as 1.744830464e+09.
*/}}
{{- define "sottovoce.settingArgs" -}}
{{- range $name, $value := . }}
{{- $flag := printf "--%s" ($name | replace "_" "-") }}
{{- if kindIs "slice" $value }}
{{- range $value }}
- {{ printf "%s=%v" $flag . | quote }}
{{- end }}
{{- else if kindIs "bool" $value }}
- {{ ternary $flag (printf "--no-%s" ($name | replace "_" "-")) $value | quote }}
{{- else if kindIs "string" $value }}
- {{ printf "%s=%s" $flag $value | quote }}
{{- else if eq (float64 $value) (float64 (int64 $value)) }}
- {{ printf "%s=%d" $flag (int64 $value) | quote }}
{{- else }}
- {{ printf "%s=%v" $flag $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Arguments that proxy and sidecar share, with all paths that the files below are mounted at.
Takes (values of a proxy, URLs of engines).
*/}}
{{- define "sottovoce.clientArgs" -}}
{{- $client := index . 0 -}}
{{- range index . 1 }}
- {{ printf "--engine=%s" . | quote }}
{{- end }}
- {{ printf "--policy=/etc/sottovoce/policy/%s" $client.policy.file | quote }}
{{- if $client.apiKey.secret }}
- {{ printf "--api-key=@/etc/sottovoce/api-key/%s" $client.apiKey.file | quote }}
{{- end }}
{{- if $client.ca.configMap }}
- {{ printf "--ca-file=/etc/sottovoce/ca/%s" $client.ca.file | quote }}
{{- end }}
- --state-dir=/var/lib/sottovoce/state
- --collateral-dir=/var/lib/sottovoce/collateral
{{- end -}}

{{/* Where a proxy's files are. Takes the values of a proxy. */}}
{{- define "sottovoce.clientMounts" -}}
- name: sottovoce-policy
  mountPath: /etc/sottovoce/policy
  readOnly: true
{{- if .apiKey.secret }}
- name: sottovoce-api-key
  mountPath: /etc/sottovoce/api-key
  readOnly: true
{{- end }}
{{- if .ca.configMap }}
- name: sottovoce-ca
  mountPath: /etc/sottovoce/ca
  readOnly: true
{{- end }}
- name: sottovoce-state
  mountPath: /var/lib/sottovoce
- name: sottovoce-tmp
  mountPath: /tmp
{{- end -}}

{{/* The same files' volumes, whole, without subPath: what changes in a ConfigMap or a Secret arrives. */}}
{{- define "sottovoce.clientVolumes" -}}
- name: sottovoce-policy
  configMap:
    name: {{ .policy.configMap | quote }}
{{- if .apiKey.secret }}
- name: sottovoce-api-key
  secret:
    secretName: {{ .apiKey.secret | quote }}
{{- end }}
{{- if .ca.configMap }}
- name: sottovoce-ca
  configMap:
    name: {{ .ca.configMap | quote }}
{{- end }}
- name: sottovoce-state
{{- if (dig "state" "claim" "" .) }}
  persistentVolumeClaim:
    claimName: {{ .state.claim | quote }}
{{- else }}
  emptyDir:
    sizeLimit: 64Mi
{{- end }}
- name: sottovoce-tmp
  emptyDir:
    sizeLimit: {{ .tmpSize }}
{{- end -}}

{{/* The only variables that a program is given, but for a bucket's: the way out, which has no flag. Takes egressProxy. */}}
{{- define "sottovoce.egressEnv" -}}
{{- if .url -}}
env:
  {{- include "sottovoce.egressVariables" . | trim | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "sottovoce.egressVariables" -}}
{{- if .url -}}
- name: HTTPS_PROXY
  value: {{ .url | quote }}
- name: HTTP_PROXY
  value: {{ .url | quote }}
{{- if .except }}
- name: NO_PROXY
  value: {{ .except | quote }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Security of a container, which is all that is needed where the pod's own is left out. */}}
{{- define "sottovoce.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  runAsUser: 65532
  runAsGroup: 65532
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "sottovoce.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* Where a pod may run. Takes (root, component, values). */}}
{{- define "sottovoce.placement" -}}
{{- $values := index . 2 -}}
{{- with (index . 0).Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
topologySpreadConstraints:
  {{- range tuple "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "sottovoce.selectorLabels" (list (index $ 0) (index $ 1)) | nindent 8 }}
  {{- end }}
{{- end -}}

{{/* Time to stop: as long as requests may still run, the pause before it, and a minute. Takes (seconds, pause). */}}
{{- define "sottovoce.gracePeriod" -}}
{{- add (ceil (index . 0) | int64) (index . 1 | int64) 60 -}}
{{- end -}}
