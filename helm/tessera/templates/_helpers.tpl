{{/* Names. A component's objects are called <release>-<component>. */}}
{{- define "tessera.name" -}}
{{ printf "%s-%s" .root.Release.Name .component | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "tessera.labels" -}}
app.kubernetes.io/name: tessera
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "tessera.selector" -}}
app.kubernetes.io/name: tessera
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "tessera.metadata" -}}
name: {{ include "tessera.name" . }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "tessera.labels" . | nindent 2 }}
{{- end }}

{{/* One of the chart's own images; .image is its key below images. */}}
{{- define "tessera.image" -}}
{{- $images := .root.Values.images -}}
{{- $reference := index $images .image -}}
{{- if not (regexMatch "(@|:[^/]+$)" $reference) }}
{{- $reference = printf "%s:%s" $reference ($images.tag | default .root.Chart.AppVersion) }}
{{- end }}
{{- with $images.registry }}{{ $reference = printf "%s/%s" . $reference }}{{ end -}}
image: {{ $reference | quote }}
imagePullPolicy: {{ $images.pullPolicy }}
{{- end }}

{{/* What all pods of the chart have in common; .account is true for those that speak with the API server. */}}
{{- define "tessera.pod" -}}
serviceAccountName: {{ include "tessera.name" . }}
automountServiceAccountToken: {{ .account | default false }}
enableServiceLinks: false
{{- if .root.Values.priorityClasses.enabled }}
priorityClassName: {{ .root.Release.Name }}-system
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user | default 1000 }}
  runAsGroup: {{ .user | default 1000 }}
  fsGroup: {{ .user | default 1000 }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tessera.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Where things are, as pods reach them. The Proxy's driver knows a Service of this cluster by its name "….NAMESPACE.svc". */}}
{{- define "tessera.host" -}}
{{ printf "%s.%s.svc" (include "tessera.name" .) .root.Release.Namespace }}
{{- end }}

{{- define "tessera.hubUrl" -}}
http://{{ include "tessera.host" (dict "root" . "component" "hub") }}:8081
{{- end }}

{{- define "tessera.serviceUrl" -}}
http://{{ include "tessera.host" (dict "root" . "component" "service") }}:8095
{{- end }}

{{- define "tessera.frontDoorUrl" -}}
http://{{ include "tessera.host" (dict "root" . "component" "front-door") }}:{{ .Values.frontDoor.port }}
{{- end }}

{{- define "tessera.publicUrl" -}}
{{- if .Values.publicUrl -}}
{{ .Values.publicUrl | trimSuffix "/" }}
{{- else if .Values.ingress.enabled -}}
{{ ternary "https" "http" (ne .Values.ingress.tlsSecret "") }}://{{ .Values.ingress.host }}
{{- end -}}
{{- end }}

{{- define "tessera.workspaces" -}}
{{ .Values.workspaces.namespace | default (printf "%s-workspaces" .Release.Namespace) }}
{{- end }}

{{- define "tessera.secret" -}}
{{ .Values.secrets.existingSecret | default (printf "%s-secrets" .Release.Name) }}
{{- end }}

{{- define "tessera.databaseSecret" -}}
{{ .Values.database.existingSecret | default (include "tessera.secret" .) }}
{{- end }}

{{/* Waits for the database; .key is the URL's key in the Secret. */}}
{{- define "tessera.waitForDatabase" -}}
- name: wait-for-database
  {{- include "tessera.image" (dict "root" .root "image" "hub") | nindent 2 }}
  args: [python3, -m, tessera_hub.chart, wait-for-database]
  env:
    - name: DATABASE_URL
      valueFrom: {secretKeyRef: {name: {{ include "tessera.databaseSecret" .root }}, key: {{ .key }}}}
  resources:
    requests: {cpu: 10m, memory: 64Mi}
    limits: {memory: 256Mi}
  {{- include "tessera.containerSecurity" . | nindent 2 }}
{{- end }}

{{/* The rules of network policies that most need. */}}
{{- define "tessera.egressToNames" -}}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Values.networkPolicies.dnsNamespace }}}}
    {{- range .Values.networkPolicies.dns.cidrs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    {{- range .Values.networkPolicies.dns.ports }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{/* To the networks that the values name, or else to what the cluster says of its API server: the Service and the machines behind. */}}
{{- define "tessera.egressToApiServer" -}}
{{- $cidrs := .Values.networkPolicies.apiServer.cidrs }}
{{- $ports := .Values.networkPolicies.apiServer.ports }}
{{- if not $cidrs }}
{{- $service := lookup "v1" "Service" "default" "kubernetes" }}
{{- $slice := lookup "discovery.k8s.io/v1" "EndpointSlice" "default" "kubernetes" }}
{{- $addresses := (($service).spec).clusterIPs | default list }}
{{- range ($slice).endpoints }}
{{- $addresses = concat $addresses .addresses }}
{{- end }}
{{- range concat ((($service).spec).ports | default list) (($slice).ports | default list) }}
{{- $ports = append $ports (int .port) }}
{{- end }}
{{- range $addresses | uniq }}
{{- $cidrs = append $cidrs (printf "%s/%s" . (ternary "128" "32" (contains ":" .))) }}
{{- end }}
{{- if not $cidrs }}
{{- fail "networkPolicies.apiServer.cidrs: name the networks of the API server (kubectl get service,endpointslice kubernetes --namespace default); helm finds them out by itself only at the cluster, with helm install and helm upgrade" }}
{{- end }}
{{- end }}
- to:
    {{- range $cidrs }}
    - ipBlock:
        cidr: {{ . | quote }}
        {{- /* Nobody's API server: the machine itself, and where clouds tell a machine its credentials. */}}
        {{- if eq . "0.0.0.0/0" }}
        except: [169.254.0.0/16, 127.0.0.0/8]
        {{- else if eq . "::/0" }}
        except: ["fe80::/10", "::1/128", "fd00:ec2::254/128"]
        {{- end }}
    {{- end }}
  ports:
    {{- range $ports | uniq }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{- define "tessera.egressToDatabase" -}}
- to:
    {{- if .Values.postgresql.enabled }}
    - podSelector:
        matchLabels:
          {{- include "tessera.selector" (dict "root" . "component" "postgresql") | nindent 10 }}
    {{- else }}
    - ipBlock: {cidr: {{ .Values.database.cidr | quote }}}
    {{- end }}
  ports: [{protocol: TCP, port: {{ ternary 5432 .Values.database.port .Values.postgresql.enabled }}}]
{{- end }}

{{/* The pods of one component, as a rule names them: .component. */}}
{{- define "tessera.peer" -}}
- podSelector:
    matchLabels:
      {{- include "tessera.selector" . | nindent 6 }}
{{- end }}

{{/* From everywhere but the addresses that lie inside: the public internet, for workspaces. Runs have the same by the driver. */}}
{{- define "tessera.internet" -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, 169.254.0.0/16, 127.0.0.0/8]
- ipBlock:
    cidr: "::/0"
    except: ["fc00::/7", "fe80::/10", "::1/128"]
{{- end }}
