# What demo and test share. Sourced, with `set -eu` and $0's repository as the working directory.

if [ -t 1 ]; then bold=$(printf '\033[1m'); plain=$(printf '\033[0m'); else bold= plain=; fi

# need_root WHY: a normal user is told what root is needed for.
need_root() {
    [ "$(id -u)" = 0 ] && return
    printf '%s needs root: %s\nRun it as root, for example: sudo %s\n' "$0" "$1" "$0" >&2
    exit 1
}

# install_packages PACKAGE...: installs those that are missing. Their daemons are not started, now or at the next boot: tests and
# demo start their own, and the machine's owner did not ask for any.
install_packages() {
    local missing= package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    printf 'Installing with apt:%s\n' "$missing"
    local policy=/usr/sbin/policy-rc.d ours=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && ours=yes
    fi
    local status=0 daemon new=
    for daemon in dovecot nginx named nsd knotd kresd unbound; do [ -e "/usr/sbin/$daemon" ] || new="$new $daemon"; done
    install_missing $missing || status=$?
    [ -z "$ours" ] || rm -f "$policy"
    for daemon in $new; do
        case "$daemon" in
            knotd) daemon=knot ;;
            kresd) daemon='kresd.target kres-cache-gc' ;;
            unbound) daemon='unbound unbound-resolvconf' ;;
        esac
        systemctl -q disable $daemon 2>/dev/null || true
    done
    return $status
}

install_missing() {
    export DEBIAN_FRONTEND=noninteractive
    local log
    log=$(mktemp)
    if ! { apt-get update && apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

# install_rust: cargo from rustup where there is none.
install_rust() {
    export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    command -v cargo >/dev/null && return
    install_packages ca-certificates curl
    printf 'Installing Rust with rustup\n'
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy
}

# remove_space SPACE: ends what runs in a network namespace of ours, and removes it.
remove_space() {
    local pid
    for _ in 1 2 3 4 5; do
        for pid in $(ip netns pids "$1" 2>/dev/null); do kill -9 "$pid" 2>/dev/null || true; done
        [ -n "$(ip netns pids "$1" 2>/dev/null)" ] || break
        sleep 0.1
    done
    ip netns del "$1" 2>/dev/null || true
}

# remove_leftovers: what runs of the end-to-end tests left that are no more: namespaces fs<their pid>-..., directories
# farside-test-<their pid>-...
remove_leftovers() {
    local path name pid
    for path in /run/netns/fs[0-9]*-* "${TMPDIR:-/tmp}"/farside-test-[0-9]*-*; do
        name=${path##*/}
        pid=${name#fs} pid=${pid#farside-test-} pid=${pid%%-*}
        case "$pid" in '' | *[!0-9]*) continue ;; esac
        [ ! -e "/proc/$pid" ] || continue
        case "$path" in
            /run/netns/*) remove_space "$name" ;;
            *) rm -rf "$path" ;;
        esac
    done
}
