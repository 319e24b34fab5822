#!/bin/sh
# A container, made by hand and taken apart: what it is, seen from inside and from outside.
# Needs root and a static busybox; no image, no registry, no daemon. Everything happens in a temporary directory.
#
#   make demo                        with the ocipy that was built here
#   RUNTIME=runc sh docs/demo.sh     with another runtime (without the plan, which only ocipy has)
set -eu

runtime=${RUNTIME:-${OCIPY:-$(dirname "$0")/../.venv/bin/ocipy}}
runtime=$(command -v "$runtime") || { echo "demo: no runtime: run make build, or name one with RUNTIME=" >&2; exit 1; }
case $runtime in /*) ;; *) runtime=$PWD/$runtime ;; esac
name=$(basename "$runtime")
id=demo-$$
if [ "$(id -u)" != 0 ]; then
    echo "demo: run it as root: it makes namespaces and cgroups" >&2
    exit 1
fi
busybox=$(command -v busybox) || { echo "demo: busybox is missing: apt-get install busybox-static" >&2; exit 1; }
if ldd "$busybox" 2>/dev/null | grep -q '=>'; then
    echo "demo: $busybox needs libraries that the container has not: apt-get install busybox-static" >&2
    exit 1
fi

if [ -t 1 ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m'); else bold='' dim='' plain=''; fi
chapter() { printf '\n%s== %s%s\n\n' "$bold" "$1" "$plain"; }
tell() { printf '%s\n' "$@"; }
shown() { printf '%s$ %s%s\n' "$dim" "$1" "$plain"; }
indent() { awk '{ print "    " $0 }'; } # with a new line at the end, always

demo=$(mktemp -d "${TMPDIR:-/tmp}/ocipy-demo.XXXXXX")
cgroups=''
run() { "$runtime" --root "$demo/state" $cgroups "$@"; }
# On cgroup v2 alone, without a runtime that can: no cgroups, and no limits then.
v1=/sys/fs/cgroup/memory/memory.limit_in_bytes
if [ ! -e $v1 ] && "$runtime" features 2>/dev/null | grep -q '"v2": *false'; then cgroups='--cgroup-manager disabled'; fi
fail() {
    printf 'demo: that did not go as told above: %s\n' "$*" >&2
    exit 1
}
# "show STATUS ARGUMENTS": a command shown and run, its output indented; it must end with that exit status.
show() {
    expected=$1
    shift
    words=$name
    for word; do case $word in *' '*) words="$words '$word'" ;; *) words="$words $word" ;; esac done
    shown "$words"
    status=0
    run "$@" >"$demo/out" 2>&1 </dev/null || status=$?
    cut -c1-132 <"$demo/out" | indent
    [ "$status" = "$expected" ] || fail "$words: exit status $status instead of $expected"
}
# The plan without the lines that do the same for the same reason as the one before them.
excerpt() {
    awk '
        function more() { if (same) printf "%37s  (and %d more like it)\n", "", same; same = 0 }
        !/^ / { more(); last = ""; print; next }
        { origin = $2 ~ /^\// ? $2 : ""; verb = origin == "" ? $2 : $3 }
        origin ~ /^\/linux/ { sub(/\/[0-9]+$/, "", origin) }
        origin " " verb == last { same++; next }
        { more(); last = origin " " verb; print }
        END { more() }'
}
finish() {
    run delete --force "$id" >/dev/null 2>&1 || true
    rm -rf "$demo"
}
trap finish EXIT
trap 'exit 130' INT TERM

# ------------------------------------------------------------------------------------------------------------------------------
chapter "1. A bundle is a directory"
tell "A container starts from two things: a root filesystem (here static busybox and its links, one file that acts as" \
    "$("$busybox" --list | wc -l) commands) and config.json, which says what the process shall see and how much it may use."
bundle=$demo/bundle
mkdir -p "$bundle/rootfs"
(
    cd "$bundle/rootfs"
    mkdir bin etc dev proc sys tmp root
    cp "$busybox" bin/busybox
    "$busybox" --list | while read -r applet; do [ "$applet" = busybox ] || ln -s busybox "bin/$applet"; done
    echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
    for kind in cgroup ipc mnt net pid user uts; do echo "$kind $(readlink /proc/self/ns/$kind)"; done >etc/namespaces-of-the-host
)
cat >"$bundle/rootfs/bin/look" <<'END'
#!/bin/sh
echo "I am process $$ of this machine. All processes that I can see:"
ps -o pid,ppid,user,comm | sed 's/^/  /'
echo
echo "My host name is $(hostname), my root directory has: $(ls / | tr '\n' ' ')"
echo "My network interfaces: $(sed -n 's/^ *\([^:]*\):.*/\1/p' /proc/net/dev | tr '\n' ' ')"
echo "I am root, with the capabilities $(sed -n 's/^CapEff:\t0*//p' /proc/self/status) (a bit each; root of the host has nearly all)."
echo
echo "My namespaces, beside those of the host:"
while read -r kind host; do
    mine=$(readlink "/proc/self/ns/$kind")
    if [ "$mine" = "$host" ]; then what="the host's"; else what="my own"; fi
    printf '  %-8s %-20s %-20s %s\n' "$kind" "$mine" "$host" "$what"
done </etc/namespaces-of-the-host
echo
echo "My mounts:"
while read -r source point type options rest; do printf '  %-8s on %-34s %.60s\n' "$type" "$point" "$options"; done </proc/mounts
echo
echo "My devices: $(cd /dev && echo *)"
echo
echo "What I may not, though I am root:"
{ hostname other; echo other >/proc/sys/kernel/hostname; mknod /dev/disk b 8 0; touch /new; } 2>&1 | sed 's/^/  /'

echo "--"
exec sleep 1000
END
chmod 755 "$bundle/rootfs/bin/look"
shown "ls bundle bundle/rootfs"
(cd "$demo" && ls -C bundle bundle/rootfs | indent)

chapter "2. config.json"
tell "\"$name spec\" writes a good start. We change five things: no terminal, our own program, a host name, a name for the" \
    "cgroup, and a limit of 32 MiB of memory."
(cd "$bundle" && run spec >/dev/null)
limit=33554432 swap=''
# Where there is swap, memory that is over the limit would go there.
if [ "$(wc -l </proc/swaps)" -gt 1 ]; then swap=", \"swap\": $limit"; fi
cp "$bundle/config.json" "$demo/spec.json"
sed -e 's/"terminal": true/"terminal": false/' -e 's/^\([[:space:]]*\)"sh"$/\1"look"/' -e 's/"hostname": ".*"/"hostname": "box"/' \
    -e "s/^\([[:space:]]*\)\"resources\": {/\1\"cgroupsPath\": \"\/$id\",\n\1\"resources\": {\n\1\t\"memory\": { \"limit\": $limit$swap },/" \
    "$demo/spec.json" >"$bundle/config.json"
shown "diff spec.json config.json"
diff "$demo/spec.json" "$bundle/config.json" | grep '^[<>]' | indent

if run plan --help >/dev/null 2>&1; then
    chapter "3. The plan"
    tell "ocipy compiles config.json into a list of kernel steps before it touches anything. Behind each number stands the place" \
        "in config.json that the step comes from; the rest is what every container needs. What is repeated is left out here, and" \
        "long lines are cut: \"$name plan BUNDLE\" shows all, of any bundle, without root and without doing anything."
    shown "$name plan bundle"
    (cd "$demo" && run plan bundle) >"$demo/plan" 2>&1 || { cat "$demo/plan"; fail "$name plan bundle"; }
    sed "s:$demo/::g" "$demo/plan" | excerpt | cut -c1-132 | indent
fi

chapter "4. create"
tell "Namespaces, mounts, cgroups and limits are made now; our program does not run yet."
shown "$name create --bundle bundle $id"
run create --bundle "$bundle" "$id" >"$demo/log" 2>&1 </dev/null || { cat "$demo/log"; fail "create"; }
show 0 state "$id"
grep -q '"status": *"created"' "$demo/out" || fail "it is not created"
pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$demo/out")
tell "" "On the host this is one ordinary process, number $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline")(waits for start)"

chapter "5. start and list, and what the process sees"
show 0 start "$id"
tries=0
while ! grep -q '^--$' "$demo/log" && [ $tries -lt 500 ]; do sleep 0.02; tries=$((tries + 1)); done
grep -v '^--$' "$demo/log" | cut -c1-128 | indent
grep -q '^I am process 1 ' "$demo/log" || fail "the program did not say what it sees"
tell "" "The same process from the host: number $pid, \"$(tr '\0' ' ' <"/proc/$pid/cmdline" | sed 's/ $//')\"."
if [ -z "$cgroups" ]; then
    tell "It is in these cgroups, where the kernel counts what it uses:"
    cut -d: -f2- "/proc/$pid/cgroup" | grep "$id" | sed 's/:/  /; s/^  /(unified)  /' | indent
fi
show 0 list

chapter "6. exec"
tell "Another process joins: same namespaces, same root, same limits. It has no parent in there."
show 0 exec "$id" sh -c 'hostname; ps -o pid,ppid,comm'

chapter "7. A limit is a promise that the kernel keeps"
if [ -z "$cgroups" ]; then
    tell "16 MiB of memory are within the limit of 32:"
    show 0 exec "$id" dd if=/dev/zero of=/dev/null bs=16M count=1
    tell "" "64 MiB are not:"
    show 137 exec "$id" dd if=/dev/zero of=/dev/null bs=64M count=1
    tell "    exit status $status: 128 + 9, killed by the kernel as memory ran out" \
        "" "The container itself goes on; only the greedy process went. The kernel counted it:"
    counter=/sys/fs/cgroup/memory/$id/memory.oom_control
    [ -e "$counter" ] || counter=/sys/fs/cgroup/$id/memory.events
    shown "grep oom_kill $counter"
    grep '^oom_kill ' "$counter" | indent
    grep -q '^oom_kill [1-9]' "$counter" || fail "the kernel killed nobody"
else
    tell "Left out: this machine has cgroup v2 alone, and this version of $name can set no limits there yet."
fi

chapter "8. kill and delete"
show 0 kill "$id" KILL
tries=0
while run state "$id" | grep -q '"status": *"running"' && [ $tries -lt 500 ]; do sleep 0.02; tries=$((tries + 1)); done
show 0 state "$id"
grep -q '"status": *"stopped"' "$demo/out" || fail "it is not stopped"
show 0 delete "$id"

chapter "9. Nothing is left"
show 1 state "$id"
left() {
    printf '    %s of the container: %s\n' "$1" "$2"
    [ "$2" = 0 ] || fail "$1 are left"
}
# One that ended is a zombie until its new parent, process 1 of the host, collects it.
left processes "$(awk '$1 == "State:" && $2 !~ /[ZX]/' "/proc/$pid/status" \
    $(grep -ls "/$id\$" /proc/[0-9]*/cgroup | sed 's/cgroup$/status/') 2>/dev/null </dev/null | wc -l)"
left mounts "$(grep -c "$demo" /proc/self/mountinfo || true)"
left cgroups "$(find /sys/fs/cgroup -type d -name "$id" 2>/dev/null | wc -l)"
left "state files" "$(find "$demo/state" -mindepth 1 | wc -l)"
tell "" "So a container is no thing of its own. It is an ordinary process that the kernel shows other names (namespaces), another" \
    "root directory (mounts) and a budget (cgroups), and that gave up some of root's powers (capabilities) on the way."
