#!/bin/sh
# The validation suite of the Open Containers runtime-tools, run against a runtime.
#
#   conformance/validation.sh build
#   conformance/validation.sh run [--runtime PATH] [--json FILE] [PROGRAM...]
#
# "build" fetches the suite as a Debian source package, over the mirror that this machine uses, and compiles it with Debian's Go;
# "run" builds if need be, and runs its programs one at a time (validation.py). Everything is kept in $OCIPY_LAB (default: .lab).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
lab=${OCIPY_LAB:-$here/../.lab}
mkdir -p "$lab/validation"
lab=$(cd "$lab/validation" && pwd)
package=golang-github-opencontainers-runtime-tools
release=trixie
import=github.com/opencontainers/runtime-tools

need() {
    missing=''
    [ -e /usr/lib/apt/methods/http ] || { echo "validation: needs Debian's apt" >&2; exit 1; }
    [ -x /usr/lib/go/bin/go ] || command -v go >/dev/null || missing="$missing golang-go"
    command -v dpkg-source >/dev/null || missing="$missing dpkg-dev"
    [ -d "/usr/share/gocode/src/$import" ] || missing="$missing $package-dev"
    [ -d /usr/share/gocode/src/github.com/google/uuid ] || missing="$missing golang-github-google-uuid-dev"
    if [ -n "$missing" ]; then
        if [ "$(id -u)" != 0 ]; then
            echo "validation: install as root: apt-get install$missing" >&2
            exit 1
        fi
        # shellcheck disable=SC2086 # a list of words
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing </dev/null >&2
    fi
}

# The source package, by an apt configuration of our own: the machine's lists stay as they are.
fetch() {
    apt=$lab/apt
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
    [ -n "$mirror" ] || { echo "validation: no mirror of Debian among this machine's apt sources" >&2; exit 1; }
    rm -rf "$apt"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/source"
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<END
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
APT::Sandbox::User "root";
END
    APT_CONFIG=$apt/apt.conf apt-get -qq update
    (cd "$apt/source" && APT_CONFIG=$apt/apt.conf apt-get -qq source --tar-only "$package")
    rm -rf "$apt/lists" "$apt/cache"
}

build() {
    [ -e "$lab/built" ] && [ "$lab/built" -nt "$here/tap/tap.go" ] && return
    need
    ls "$lab"/apt/source/*.orig.tar.* >/dev/null 2>&1 || fetch
    rm -rf "$lab/go" "$lab/suite"
    mkdir -p "$lab/go/src/$import" "$lab/go/src/github.com/mndrix/tap-go" "$lab/suite/programs"
    tar -xf "$lab"/apt/source/*.orig.tar.* -C "$lab/go/src/$import" --strip-components=1
    cp "$here/tap/tap.go" "$lab/go/src/github.com/mndrix/tap-go/"
    (
        cd "$lab/go/src/$import"
        export GO111MODULE=off GOPATH="$lab/go:/usr/share/gocode" GOCACHE="$lab/go/cache" GOFLAGS=
        CGO_ENABLED=0 go build -tags 'netgo osusergo' -o "$lab/suite/runtimetest" ./cmd/runtimetest
        # shellcheck disable=SC2046 # a list of packages
        go build -o "$lab/suite/programs/" $(ls -d ./validation/*/ | grep -v '/util/')
        cp rootfs-*.tar.gz "$lab/suite/"
    )
    rm -rf "$lab/go/cache"
    touch "$lab/built"
}

verb=${1:-run}
[ $# = 0 ] || shift
case $verb in
build) build ;;
run)
    build
    exec python3 "$here/validation.py" --suite "$lab/suite" "$@"
    ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
