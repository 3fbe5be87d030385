{{/* Names and labels; what all pods have in common. */}}

{{- define "steno.name" -}}
{{- printf "%s-%s" .root.Release.Name .component | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "steno.selector" -}}
app.kubernetes.io/name: steno
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "steno.labels" -}}
{{ include "steno.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "steno.image" -}}
{{ .root.Values.image.registry }}{{ .image }}:{{ default .root.Chart.AppVersion .root.Values.image.tag }}
{{- end -}}

{{/* Of every pod of ours. `uid` differs for Redis, whose image has a user of its own. */}}
{{- define "steno.pod" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .uid | default 10001 }}
  runAsGroup: {{ .uid | default 10001 }}
  fsGroup: {{ .uid | default 10001 }}
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "steno.container" -}}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* REDIS_URL for a kind of process, and the variables for all and for this one. */}}
{{- define "steno.env" -}}
- name: REDIS_URL
{{- if .root.Values.redis.secret }}
  valueFrom: {secretKeyRef: {name: {{ .root.Values.redis.secret }}, key: {{ .kind }}}}
{{- else if .root.Values.redis.enabled }}
  value: redis://{{ include "steno.name" (dict "root" .root "component" "redis") }}:6379/0
{{- else }}
  value: {{ required "redis.url or redis.secret: where is your Redis?" .root.Values.redis.url | quote }}
{{- end }}
{{- range $name, $value := merge (deepCopy (.settings | default dict)) .root.Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Ready: it says so itself. Alive: it answers at all; what is not ready may be waiting for Redis, and is not helped by an end. */}}
{{- define "steno.probes" -}}
startupProbe:
  httpGet: {path: /metrics, port: probe}
  periodSeconds: 5
  failureThreshold: {{ .starts | default 12 }}
readinessProbe:
  httpGet: {path: /health, port: probe}
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
  httpGet: {path: /metrics, port: probe}
  periodSeconds: 20
  timeoutSeconds: 5
{{- end -}}

{{- define "steno.pdb" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "steno.name" . }}
  labels: {{- include "steno.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "steno.selector" . | nindent 6 }}
{{- end -}}

{{/* The headless service by which metrics are found. */}}
{{- define "steno.probe-service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "steno.name" . }}-probe
  labels:
    {{- include "steno.labels" . | nindent 4 }}
    steno/job: {{ .job }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {{- include "steno.selector" . | nindent 4 }}
  ports:
    - {name: probe, port: {{ .port }}, targetPort: probe}
{{- end -}}
