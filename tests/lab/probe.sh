#!/bin/sh
# probe.sh DIRECTORY: compile the static program that reports what a container sees.
set -eu
mkdir -p "$1"
cd "$(dirname "$0")"
exec "${CC:-gcc}" -Wall -Wextra -Werror -Wvla -O1 -static -s -pthread -o "$1/probe" probe*.c
