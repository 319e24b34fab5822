#!/bin/sh
# archive.sh DIRECTORY ROOTFS NAME [COMMAND]: an image of ROOTFS under the full NAME that runs COMMAND (/bin/sh), as archive.tar of
# docker save: engines load it without a registry.
set -eu
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$out"
umask 022
umoci init --layout image
umoci new --image image:box
umoci unpack --image image:box work
cp -a "$2/." work/rootfs/
printf '#!/bin/sh\nexec sleep 100000\n' >work/rootfs/bin/pause
chmod 755 work/rootfs/bin/pause
umoci repack --image image:box work
rm -rf work
umoci config --image image:box --config.cmd "${4:-/bin/sh}" --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
skopeo copy --quiet --insecure-policy oci:image:box "docker-archive:archive.tar:$3"
rm -rf image
