#!/usr/bin/env bash
# Sets up .venv in this checkout: the default host, what it imports, this plugin, and its test tools.
# A second call with unchanged requirements returns at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

host="pymarlzooplus==1.1.0"
marl_eval="id-marl-eval==0.0.4" # for a test; the versions that it declares are not those that the rest needs
stamp=".venv/.installed"
wanted="$( (cat install.sh requirements.txt setup.py setup.cfg; pwd) | cksum)"
if [ -x .venv/bin/hasac ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi

python=""
for candidate in python3.11 python3.12 python3 python; do
    if command -v "$candidate" >/dev/null &&
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
        python="$candidate"
        break
    fi
done
if [ -z "$python" ]; then
    echo "install.sh: needs Python 3.11 or 3.12, and found neither on PATH; install one and call again." >&2
    exit 2
fi

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
step() { # step TEXT COMMAND…: quiet unless it fails
    echo "install.sh: $1" >&2
    shift
    if ! "$@" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "install.sh: failed: $*" >&2
        exit 1
    fi
}
step "virtual environment with $("$python" --version)" "$python" -m venv --clear .venv
# --no-compile: Python compiles what is imported, when it is; everything at once takes longer than the rest.
pip=(.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-compile)
step "packages (a few minutes the first time)" "${pip[@]}" -r requirements.txt
step "$host" "${pip[@]}" --no-deps "$host"
step "$marl_eval" "${pip[@]}" --no-deps "$marl_eval"
step "plugin_hasac" "${pip[@]}" --no-deps --no-build-isolation --editable .
echo "$wanted" >"$stamp"
