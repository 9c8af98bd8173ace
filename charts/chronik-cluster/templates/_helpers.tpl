{{- define "chronik-cluster.name" -}}
{{- $name := default .Release.Name .Values.name }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "the cluster's name %q must consist of small letters, digits and '-', a letter first: set `name`" $name) }}
{{- end }}
{{- if gt (len $name) 32 }}
{{- fail (printf "the cluster's name %q has more than 32 characters: set `name`" $name) }}
{{- end }}
{{- $name }}
{{- end }}

{{/* Not the operator's labels of brokers: what this chart makes is no broker. */}}
{{- define "chronik-cluster.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: chronik
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The brokers' image, or nothing when the operator's is to be used. */}}
{{- define "chronik-cluster.image" -}}
{{- with .Values.image }}
{{- if and .repository .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else if .repository }}
{{- printf "%s:%s" .repository .tag }}
{{- end }}
{{- end }}
{{- end }}

{{- define "chronik-cluster.testImage" -}}
{{- .Values.test.image | default (include "chronik-cluster.image" .) | default "localhost/chronik-broker:dev" }}
{{- end }}

{{/* The port of the first internal listener. */}}
{{- define "chronik-cluster.port" -}}
{{- $ports := list }}
{{- range .Values.listeners }}
{{- if eq (default "internal" .type) "internal" }}
{{- $ports = append $ports (int .port) }}
{{- end }}
{{- end }}
{{- if not $ports }}
{{- fail "at least one of `listeners` must be of type internal" }}
{{- end }}
{{- first $ports }}
{{- end }}

{{- define "chronik-cluster.bootstrap" -}}
{{- printf "%s-bootstrap:%s" (include "chronik-cluster.name" .) (include "chronik-cluster.port" .) }}
{{- end }}

{{/* What the pods of `helm test` have in common. They conform to the pod security standard `restricted`. */}}
{{- define "chronik-cluster.testPod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 5
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pool.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "chronik-cluster.testContainer" -}}
image: {{ include "chronik-cluster.testImage" . | quote }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
terminationMessagePolicy: FallbackToLogsOnError
resources:
  requests:
    cpu: 50m
    memory: 32Mi
  limits:
    memory: 256Mi
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}
