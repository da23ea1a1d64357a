#!/bin/bash
# The GPU check on a machine without a network, such as a compute node, whose Python has torch.
#   offline.sh pack     on a machine with a network: put the packages that are missing there into .gpu/ of the checkout
#   offline.sh run      on the other one, in a copy of the checkout with .gpu/: run the check
# PYTHON is the Python with torch (python3). What the check itself reads is described in common.py.
set -euo pipefail
root=$(realpath "$(dirname "$0")/../.."); wheels=$root/.gpu/wheels; python=${PYTHON:-python3}

pack() {
  mkdir -p "$wheels"
  "$python" -m pip download -q --no-deps -d "$wheels" hydra-core==1.3.8 omegaconf==2.3.1 hydra-joblib-launcher==1.2.0
  "$python" -m pip wheel -q --no-deps -w "$wheels" antlr4-python3-runtime==4.9.3
  ls "$wheels"
}

run() {
  site=$(mktemp -d); trap 'rm -rf "$site"' EXIT
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
  for package in gptlab wandb; do  # env.json of a run names their versions, but the check needs neither installed
    "$python" -c "import importlib.metadata as m; m.version('$package')" 2>/dev/null && continue
    mkdir -p "$site/$package-0.0.0.dist-info"
    printf 'Metadata-Version: 2.1\nName: %s\nVersion: 0.0.0\n' "$package" > "$site/$package-0.0.0.dist-info/METADATA"
  done
  PYTHONPATH=$root:$site:${PYTHONPATH:-} "$python" "$root/benchmarks/gpu/check.py"
}

"${1:?pack or run}"
