# Sourced by the scripts here. `set_up_environment EXTRA` makes .venv in the project, with the project and that extra
# installed; it does nothing when that was done before and pyproject.toml has not changed since.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Telefabric needs Python 3.11 or newer: install it, or name it with PYTHON=/path/to/python" >&2
    exit 1
}

set_up_environment() {
    local extra=$1 stamp wanted
    stamp="$project/.venv/.installed-$extra"
    wanted=$(cksum <"$project/pyproject.toml")
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return
    fi
    if [ ! -x "$project/.venv/bin/python" ]; then
        echo "Making $project/.venv" >&2
        "$(find_python)" -m venv "$project/.venv"
    fi
    echo "Installing telefabric[$extra] into it" >&2
    # Python compiles what is imported when it is; pip would compile all, which takes as long as the rest.
    "$project/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile -e "$project[$extra]" >&2
    echo "$wanted" >"$stamp"
}
