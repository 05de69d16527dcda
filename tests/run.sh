#!/bin/sh
# Runs the tests, or one group of them: a marker of setup.cfg or a folder below tests/.
set -eu
python=.venv/bin/python
# Kubernetes and the images take minutes to build the first time, more than a test may. Without root the tests themselves say so.
if [ "$(id -u)" = 0 ]; then
  case "${1:-}" in
  '' | cluster | conformance | faults | helm | spawner | vgpu) "$python" -m tests.cluster build ;;
  esac
  case "${1:-}" in
  '' | helm | spawner) "$python" -m tests.helm ;;
  esac
fi
# Most tests wait for engines more than they compute, so what needs the test cluster runs beside all the rest.
everything() {
  engines="tests/cluster tests/faults tests/helm tests/proxy tests/spawner"
  engines="$engines tests/vgpu/test_kubelet.py tests/vgpu/agent/test_kubelet.py tests/vgpu/agent/test_chart.py"
  log=$(mktemp)
  # shellcheck disable=SC2046,SC2086 # words on purpose: a list of folders
  "$python" -m pytest $(printf -- '--ignore=%s ' $engines) >"$log" 2>&1 &
  rest=$!
  trap 'kill -INT $rest 2>/dev/null; wait $rest; rm -f "$log"' INT TERM
  status=0
  # shellcheck disable=SC2086
  "$python" -m pytest $engines || status=$?
  wait $rest || status=$?
  cat "$log"
  rm -f "$log"
  return $status
}
case "${1:-}" in
'') everything ;;
unprivileged) exec "$python" -m pytest -m "not root" ;;
tenancy | faults | browser | conformance | billing) exec "$python" -m pytest -m "$1" ;;
*) exec "$python" -m pytest "tests/$1" ;;
esac
