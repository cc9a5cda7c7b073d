{{/* Rules of NetworkPolicies. Kubernetes knows addresses and pods; names are Cilium's. */}}

{{- define "sottovoce.nameServers" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
  to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
{{- end -}}

{{/* Port 443 of whatever is not the cluster's, the company's, or a cloud's metadata server. */}}
{{- define "sottovoce.publicHttps" -}}
- ports:
    - port: 443
  to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except: [10.0.0.0/8, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]
    - ipBlock:
        cidr: ::/0
        except: [fc00::/7, fe80::/10]
{{- end -}}

{{/* Who may read metrics. Takes (root, peers that were given). */}}
{{- define "sottovoce.metricsPeers" -}}
{{- if index . 1 -}}
{{- toYaml (index . 1) -}}
{{- else -}}
- namespaceSelector:
    matchExpressions:
      - key: kubernetes.io/metadata.name
        operator: In
        values:
          {{- toYaml (index . 0).Values.monitoring.namespace | nindent 10 }}
{{- end -}}
{{- end -}}

{{/* Whom an engine asks for collateral (`attestation/collateral/source.py`). A list, as JSON. */}}
{{- define "sottovoce.vendors" -}}
{{- list
  "kdsintf.amd.com"
  "api.trustedservices.intel.com"
  "certificates.trustedservices.intel.com"
  "rim.attestation.nvidia.com"
  "ocsp.ndis.nvidia.com"
  "nras.attestation.nvidia.com"
| toJson -}}
{{- end -}}
