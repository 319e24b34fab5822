#!/bin/sh
# busybox.sh DIRECTORY: a root filesystem of static busybox, a passwd and group file, and the directories that mounts expect.
set -eu
rootfs=$1
busybox=$(command -v busybox) || { echo "busybox is missing: install busybox-static" >&2; exit 1; }
if ldd "$busybox" 2>/dev/null | grep -q '=>'; then
    echo "$busybox is not static: install busybox-static" >&2
    exit 1
fi
umask 022
mkdir -p "$rootfs"
cd "$rootfs"
mkdir -p bin sbin usr/bin usr/sbin etc dev proc sys root home/user run var/lib mnt
mkdir -p -m 1777 tmp
chmod 1777 tmp
cp "$busybox" bin/busybox
chmod 755 bin/busybox
"$busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "bin/$applet"
done
cat >etc/passwd <<'END'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
user:x:1000:1000:a user:/home/user:/bin/sh
1234:x:0:0:a name that is a number:/root:/bin/sh
END
cat >etc/group <<'END'
root:x:0:
daemon:x:1:
tty:x:5:
audio:x:29:user
user:x:1000:
END
chown 1000:1000 home/user 2>/dev/null || true
