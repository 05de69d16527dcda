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
case "${1:-}" in
'') exec "$python" -m pytest ;;
unprivileged) exec "$python" -m pytest -m "not root" ;;
tenancy | faults | browser | conformance | billing) exec "$python" -m pytest -m "$1" ;;
*) exec "$python" -m pytest "tests/$1" ;;
esac
