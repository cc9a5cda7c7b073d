{{/*
The proxy as a native sidecar: a container of `initContainers` that starts before the application and stops after it.
In a chart that has this one as a dependency:

  initContainers:
    {{- include "sottovoce.sidecar" .Subcharts.sottovoce | nindent 8 }}
  volumes:
    {{- include "sottovoce.sidecar.volumes" .Subcharts.sottovoce | nindent 8 }}

and, for the PodMonitor, `{{ include "sottovoce.sidecar.labels" . }}` among the pod's labels.
*/}}
{{- define "sottovoce.sidecar" -}}
{{- $sidecar := .Values.sidecar -}}
{{- $_ := required "sidecar.engines is needed: the URL of the engine" (first $sidecar.engines) -}}
- name: sottovoce
  image: {{ include "sottovoce.image" (list . .Values.proxy.image) }}
  imagePullPolicy: {{ .Values.proxy.image.pullPolicy }}
  restartPolicy: Always
  command: [sottovoce, proxy]
  args:
    - --listen=127.0.0.1:{{ $sidecar.port }}
    - --status-listen={{ .Values.bindAddress }}:{{ $sidecar.statusPort }}
    {{- include "sottovoce.clientArgs" (list $sidecar $sidecar.engines) | trim | nindent 4 }}
    {{- with include "sottovoce.settingArgs" $sidecar.settings | trim }}
    {{- . | nindent 4 }}
    {{- end }}
  {{- with include "sottovoce.egressEnv" $sidecar.egressProxy }}
  {{- . | nindent 2 }}
  {{- end }}
  ports:
    - name: sottovoce
      containerPort: {{ $sidecar.statusPort }}
  startupProbe:
    httpGet:
      path: {{ ternary "/readyz" "/livez" $sidecar.waitForEngine }}
      port: sottovoce
    periodSeconds: 2
    failureThreshold: 150
  livenessProbe:
    httpGet:
      path: /livez
      port: sottovoce
    periodSeconds: 20
    timeoutSeconds: 5
  {{- if $sidecar.waitForEngine }}
  readinessProbe:
    httpGet:
      path: /readyz
      port: sottovoce
    periodSeconds: 5
    timeoutSeconds: 5
  {{- end }}
  {{- include "sottovoce.containerSecurity" . | nindent 2 }}
  resources:
    {{- toYaml $sidecar.resources | nindent 4 }}
  volumeMounts:
    {{- include "sottovoce.clientMounts" $sidecar | nindent 4 }}
{{- end -}}

{{- define "sottovoce.sidecar.volumes" -}}
{{- include "sottovoce.clientVolumes" .Values.sidecar -}}
{{- end -}}

{{- define "sottovoce.sidecar.labels" -}}
sottovoce/sidecar: "true"
{{- end -}}
