{{/* Background jobs of the proxy: where they are kept, and by which keys they are sealed. All take `proxy.jobs`. */}}

{{- define "sottovoce.jobsArgs" -}}
- --jobs
- {{ printf "--jobs-key=/etc/sottovoce/jobs-key/%s" .key.file | quote }}
{{- if .claim }}
- --jobs-dir=/var/lib/sottovoce/jobs
{{- end }}
{{- if .database.secret }}
- {{ printf "--jobs-database=@/etc/sottovoce/jobs-database/%s" .database.file | quote }}
{{- end }}
{{- if .bucket.url }}
- {{ printf "--jobs-blobs=%s" .bucket.url | quote }}
{{- end }}
{{ include "sottovoce.settingArgs" .settings | trim }}
{{- end -}}

{{- define "sottovoce.jobsMounts" -}}
- name: sottovoce-jobs-key
  mountPath: /etc/sottovoce/jobs-key
  readOnly: true
{{- if .database.secret }}
- name: sottovoce-jobs-database
  mountPath: /etc/sottovoce/jobs-database
  readOnly: true
{{- end }}
{{- if .claim }}
- name: sottovoce-jobs
  mountPath: /var/lib/sottovoce/jobs
{{- end }}
{{- end -}}

{{- define "sottovoce.jobsVolumes" -}}
- name: sottovoce-jobs-key
  secret:
    secretName: {{ .key.secret | quote }}
{{- if .database.secret }}
- name: sottovoce-jobs-database
  secret:
    secretName: {{ .database.secret | quote }}
{{- end }}
{{- if .claim }}
- name: sottovoce-jobs
  persistentVolumeClaim:
    claimName: {{ .claim | quote }}
{{- end }}
{{- end -}}

{{/* Keys of a bucket have no flag, for they are secrets, and S3's own names. */}}
{{- define "sottovoce.bucketVariables" -}}
{{- $bucket := . -}}
{{- range tuple "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" "AWS_SESSION_TOKEN" }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $bucket.secret | quote }}
      key: {{ . }}
      {{- if eq . "AWS_SESSION_TOKEN" }}
      optional: true
      {{- end }}
{{- end }}
{{- with $bucket.endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- with $bucket.region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- end -}}
