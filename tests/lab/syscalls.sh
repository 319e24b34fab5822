#!/bin/sh
# syscalls.sh DIRECTORY: compile the static program that tries every system call.
set -eu
mkdir -p "$1"
cd "$(dirname "$0")"
exec "${CC:-gcc}" -Wall -Wextra -Werror -Wvla -O1 -static -s -o "$1/syscalls" syscalls.c
