#!/bin/sh
# image.sh DIRECTORY ROOTFS PROBE: one image in the three forms in which real input comes.
#   image/    an OCI image layout of two layers, with a whiteout, made with umoci
#   bundle/   umoci's bundle of it: its config.json and root filesystem
#   export/   the root filesystem as "docker export" gives it: the layers of an archive of docker, flattened, with the mount points
#             of a container; it has hard links, extended attributes, a file capability, a setuid program, and no device
set -eu
mkdir -p "$1"
out=$(cd "$1" && pwd)
rootfs=$2
probe=$3
cd "$out"
umask 022

umoci init --layout image
umoci new --image image:box
umoci unpack --image image:box work
cp -a "$rootfs/." work/rootfs/
cp "$probe" work/rootfs/bin/probe
echo "goes with the second layer" >work/rootfs/etc/gone
umoci repack --image image:box work
rm -rf work

umoci unpack --image image:box work
rm work/rootfs/etc/gone
cd work/rootfs
cp bin/probe bin/setuid-probe
chown 0:0 bin/setuid-probe
chmod 4755 bin/setuid-probe
echo linked >etc/linked
ln etc/linked etc/linked-too
cp bin/probe bin/capable-probe
python3 - <<'END'
import os, struct
os.setxattr("etc/linked", "user.note", b"kept")
# security.capability, revision 2, effective: CAP_NET_BIND_SERVICE (10) permitted
os.setxattr("bin/capable-probe", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
END
cd "$out"
umoci repack --image image:box work
rm -rf work
umoci config --image image:box --config.cmd /bin/probe --config.cmd from-the-image --config.workingdir /home/user \
    --config.env GREETING=hello --config.user user
umoci unpack --image image:box bundle

skopeo copy --quiet --insecure-policy oci:image:box docker-archive:archive.tar:box:latest
mkdir archive flat
tar -xf archive.tar -C archive
python3 -c 'import json; print(*json.load(open("archive/manifest.json"))[0]["Layers"], sep="\n")' >layers
while read -r layer; do
    tar -tf "archive/$layer" | sed -n 's:\(^\|.*/\)\.wh\.\([^/]*\)$:\1\2:p' | while read -r gone; do rm -rf "flat/$gone"; done
    tar -xpf "archive/$layer" --numeric-owner --xattrs --xattrs-include='*' --exclude='.wh.*' -C flat
done <layers
(
    cd flat
    : >.dockerenv
    mkdir -p dev/pts dev/shm
    : >dev/console
    chmod 755 .dockerenv dev/console
    : >etc/hostname
    : >etc/hosts
    : >etc/resolv.conf
    ln -sf /proc/mounts etc/mtab
)
tar -cf export.tar --numeric-owner --xattrs --xattrs-include='*' -C flat .
mkdir export
tar -xpf export.tar --numeric-owner --xattrs --xattrs-include='*' -C export
rm -rf archive archive.tar layers flat export.tar
