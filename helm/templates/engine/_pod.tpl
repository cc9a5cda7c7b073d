{{/*
The pod of an engine, and nothing beside it: every container of a confidential guest can ask for evidence with any
report data (Confidential Containers call that an evidence factory).
*/}}
{{- define "sottovoce.enginePod" -}}
{{- $engine := .Values.engine -}}
{{- $confidential := $engine.confidential -}}
metadata:
  labels:
    {{- include "sottovoce.labels" (list . "engine") | nindent 4 }}
    {{- with $engine.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := deepCopy $engine.podAnnotations }}
  {{- if $confidential.enabled }}
  {{- with $confidential.kernelParams }}
  {{- $_ := set $annotations "io.katacontainers.config.hypervisor.kernel_params" . }}
  {{- end }}
  {{- with $confidential.initdata }}
  {{- $_ := set $annotations "io.katacontainers.config.hypervisor.cc_init_data" (trim .) }}
  {{- end }}
  {{- end }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with $engine.runtimeClassName }}
  runtimeClassName: {{ . | quote }}
  {{- end }}
  serviceAccountName: {{ include "sottovoce.serviceAccountName" . | quote }}
  {{- $known := not $confidential.omitUnknownToGenpolicy }}
  {{- if $known }}
  {{- include "sottovoce.podSecurity" . | nindent 2 }}
  {{- else }}
  securityContext:
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
  {{- end }}
  {{- include "sottovoce.placement" (list . "engine" $engine) | trim | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "sottovoce.gracePeriod" (list $engine.settings.drain_s $engine.preStopSeconds) }}
  containers:
    - name: engine
      image: {{ include "sottovoce.image" (list . $engine.image) }}
      imagePullPolicy: {{ $engine.image.pullPolicy }}
      command: [sottovoce-engine, serve]
      args:
        - --listen={{ .Values.bindAddress }}:8800
        - --status-listen={{ .Values.bindAddress }}:8801
        {{- range $engine.models }}
        - {{ printf "--model=%s=%s" .name .path | quote }}
        {{- end }}
        {{- range $model := $engine.models }}
        {{- range $model.aliases }}
        - {{ printf "--alias=%s=%s" . $model.name | quote }}
        {{- end }}
        {{- end }}
        {{- if $engine.policy.configMap }}
        - {{ printf "--policy=/etc/sottovoce/policy/%s" $engine.policy.file | quote }}
        {{- end }}
        {{- if $engine.apiKeys.secret }}
        - {{ printf "--api-keys=/etc/sottovoce/api-keys/%s" $engine.apiKeys.file | quote }}
        {{- end }}
        - --collateral-dir=/var/lib/sottovoce/collateral
        {{- with include "sottovoce.settingArgs" $engine.settings | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      {{- with include "sottovoce.egressEnv" $engine.egressProxy }}
      {{- . | nindent 6 }}
      {{- end }}
      ports:
        - name: sealed
          containerPort: 8800
        - name: status
          containerPort: 8801
      startupProbe:
        httpGet:
          path: /readyz
          port: status
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: {{ div (add $engine.startupSeconds 9) 10 }}
      livenessProbe:
        httpGet:
          path: /livez
          port: status
        periodSeconds: 20
        timeoutSeconds: 10
        failureThreshold: 6
      readinessProbe:
        httpGet:
          path: /readyz
          port: status
        periodSeconds: 5
        timeoutSeconds: 5
      {{- if and $known $engine.preStopSeconds }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ $engine.preStopSeconds }}
      {{- end }}
      {{- $security := include "sottovoce.containerSecurity" . | fromYaml }}
      {{- if not $known }}
      {{- $_ := unset $security.securityContext "runAsNonRoot" }}
      {{- end }}
      {{- toYaml $security | nindent 6 }}
      resources:
        {{- include "sottovoce.engineResources" $engine | trim | nindent 8 }}
      volumeMounts:
        {{- if or $engine.weights.claim $engine.weights.image }}
        - name: weights
          mountPath: /models
          readOnly: true
        {{- end }}
        {{- if $engine.policy.configMap }}
        - name: policy
          mountPath: /etc/sottovoce/policy
          readOnly: true
        {{- end }}
        {{- if $engine.apiKeys.secret }}
        - name: api-keys
          mountPath: /etc/sottovoce/api-keys
          readOnly: true
        {{- end }}
        - name: collateral
          mountPath: /var/lib/sottovoce
        - name: tmp
          mountPath: /tmp
        - name: shm
          mountPath: /dev/shm
  volumes:
    {{- if $engine.weights.claim }}
    - name: weights
      persistentVolumeClaim:
        claimName: {{ $engine.weights.claim | quote }}
        {{- if $known }}
        readOnly: true
        {{- end }}
    {{- else if $engine.weights.image }}
    - name: weights
      image:
        reference: {{ $engine.weights.image | quote }}
        pullPolicy: IfNotPresent
    {{- end }}
    {{- if $engine.policy.configMap }}
    - name: policy
      configMap:
        name: {{ $engine.policy.configMap | quote }}
    {{- end }}
    {{- if $engine.apiKeys.secret }}
    - name: api-keys
      secret:
        secretName: {{ $engine.apiKeys.secret | quote }}
    {{- end }}
    {{- range $name, $size := dict "collateral" $engine.collateralSize "shm" $engine.shmSize "tmp" $engine.tmpSize }}
    - name: {{ $name }}
      emptyDir:
        medium: Memory
        sizeLimit: {{ $size }}
    {{- end }}
{{- end -}}

{{/* Quantities as text, which is all that genpolicy reads; GPUs among requests and limits. Takes the engine's values. */}}
{{- define "sottovoce.engineResources" -}}
{{- $gpu := .gpu -}}
{{- range $kind := list "requests" "limits" }}
{{ $kind }}:
  {{- range $name, $quantity := index $.resources $kind }}
  {{ $name }}: {{ $quantity | quote }}
  {{- end }}
  {{- if $gpu.count }}
  {{ $gpu.resource }}: {{ $gpu.count | quote }}
  {{- end }}
  {{- if $gpu.nvswitchCount }}
  {{ $gpu.nvswitchResource }}: {{ $gpu.nvswitchCount | quote }}
  {{- end }}
{{- end }}
{{- end -}}
